// The command line of sign-in.mjs. A mistake in it ends the process with exit 2 and the usage.

import { parseArgs } from "node:util";

const USAGE = `usage: E2E_PASSWORD=... node sign-in.mjs --url NOVNC_URL --user NAME --artifacts DIR [options]
  --events-timeout S   how long each wait may take (default 180)
  --wrong-first        type a wrong password first and expect the form back with its error bar
  --close-browser      close the machine's browser (Ctrl+Q) on the login page; sign in if it comes back
  --deny               deny what the login page asks for; the outcome is then \`denied\`, when the viewer page says that this try ended
  --expect STATE       the outcome that counts as success (default completed)`;

/** Options and the password from the environment, which does not show in the process list as an argument would. */
export function readOptions(args = process.argv.slice(2), env = process.env) {
  let values;
  try {
    ({ values } = parseArgs({
      args,
      options: {
        url: { type: "string" },
        user: { type: "string" },
        artifacts: { type: "string" },
        "events-timeout": { type: "string", default: "180" },
        "wrong-first": { type: "boolean", default: false },
        "close-browser": { type: "boolean", default: false },
        deny: { type: "boolean", default: false },
        expect: { type: "string", default: "completed" },
        help: { type: "boolean", default: false },
      },
    }));
  } catch (error) {
    exit(2, `${error.message}\n${USAGE}`);
  }
  if (values.help) exit(0, USAGE);
  for (const name of ["url", "user", "artifacts"]) if (!values[name]) exit(2, `--${name} is missing\n${USAGE}`);
  const waitMs = Number(values["events-timeout"]) * 1000;
  if (!(waitMs > 0)) exit(2, `--events-timeout ${values["events-timeout"]} is no number of seconds\n${USAGE}`);
  if (!env.E2E_PASSWORD) exit(2, `E2E_PASSWORD is not set\n${USAGE}`);
  return {
    url: values.url,
    user: values.user,
    password: env.E2E_PASSWORD,
    artifacts: values.artifacts,
    waitMs,
    wrongFirst: values["wrong-first"],
    closeBrowser: values["close-browser"],
    deny: values.deny,
    expect: values.deny ? "denied" : values.expect,
  };
}

function exit(code, text) {
  (code === 0 ? console.log : console.error)(text);
  process.exit(code);
}
