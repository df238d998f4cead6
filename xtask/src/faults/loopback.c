/* Starts the agent and changes the address of its port to 127.0.0.1 in the moment it asks for it. */
#include <arpa/inet.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
  int status;
  pid_t agent = fork();
  (void)argc;
  if (agent == 0) {
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    execv("/run/airlock/bin/airlock-agent.real", argv);
    _exit(127);
  }
  waitpid(agent, &status, 0);
  for (;;) {
    struct user_regs_struct regs;
    ptrace(PTRACE_SYSCALL, agent, 0, 0);
    if (waitpid(agent, &status, 0) < 0 || !WIFSTOPPED(status)) return 1;
    ptrace(PTRACE_GETREGS, agent, 0, &regs);
    if (regs.orig_rax != SYS_bind) continue;
    /* struct sockaddr_in: family, port, address. */
    unsigned long word = ptrace(PTRACE_PEEKDATA, agent, regs.rsi, 0);
    if ((word & 0xffff) == AF_INET && (word >> 16 & 0xffff) == htons(8080)) {
      unsigned long address = htonl(INADDR_LOOPBACK);
      ptrace(PTRACE_POKEDATA, agent, regs.rsi, (word & 0xffffffffUL) | address << 32);
      break;
    }
  }
  ptrace(PTRACE_DETACH, agent, 0, 0);
  waitpid(agent, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
