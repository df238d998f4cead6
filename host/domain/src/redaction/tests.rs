use super::*;
use proptest::prelude::*;
use serde_json::json;

/// A secret, and lines around it that must come out as they are here with the mark in its place.
const SECRETS: &[(&str, &[&str])] = &[
    (
        "hunter2",
        &[
            "password=@",
            "Password: @",
            r#"{"user":"a","password":"@","n":1}"#,
            "DB_PASSWD='@' next",
            "psql postgres://@@db/x",
        ],
    ),
    (r#"p\"q r"#, &[r#"{"client_secret":"@","n":1}"#]),
    (
        "abc.def-ghi",
        &[r#"{"access_token": "@", "token_type": "Bearer"}"#, r#"write("{\"refreshToken\":\"@\",\"n\":1}")"#],
    ),
    ("Bearer s3cret", &["Authorization: @", "curl -H 'Authorization: @' https://x/", "> authorization: @"]),
    ("s3cr3t-cookie; b=2", &["Cookie: @", "< Set-Cookie: @"]),
    (
        "abcdef1",
        &["Bearer @ was sent", "state=@", "got ?code=@&ok=1 back", r#""state":"@""#, "GET /callback?state=@ HTTP/1.1"],
    ),
    ("exited", &["GET /callback?code=@ HTTP/1.1", "localhost:1455/cb#state=@"]),
    (
        "client_id=x&state=y&code_challenge=z",
        &[
            "open https://idp.example/authorize?@ now",
            "(http://127.0.0.1:9/cb#@)",
            "visit: `https://idp.example/a?@`; then paste",
        ],
    ),
    ("WDJB-MJHT", &["enter the code @ at https://idp.example/device", "user_code=@", "code: @"]),
    ("482913", &["Your code: @", r#"{"code":"@"}"#]),
    ("sk-ant-api03-abcdefghijklmnop", &["key @ is used", "ANTHROPIC_API_KEY=@", "--api-key @"]),
    ("ghp_abcdefghijklmnopqrst", &["remote: @."]),
    ("ya29.a0AfB_byC-defghijk", &["got @"]),
    ("1//0gabcdefghij-KLMNOP", &["refresh @"]),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", &["id @ ok"]),
    ("airlock_Zm9vYmFyYmF6cXV4Zm9vYmFyYmF6cXV4Zm9vYmFyYmE", &["token @"]),
    ("q7Xh2Lk9Zp4Rt6Wm1Vb8", &["saw @ in /tmp", "https://idp.example/magic/@ is open", "path /a/@/b"]),
    ("qX7h2/k9Zp4Rt6W+1Vb8aB3dE5fG7hI9jK0lM2nO/4pQ6rS8==", &["raw @ end"]),
    ("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", &["opaque @ end"]),
];

/// Lines that a diagnosis needs and that hold nothing to hide.
const KEPT: &[&str] = &[
    "",
    "[    0.000000] Linux version 6.1.0-28-amd64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14) 12.2.0)",
    "[    0.000000] Command line: console=ttyS0 ip=192.168.100.8::192.168.100.1:255.255.255.0::eth0:off airlock.vm=01234567-89ab-4def-8123-456789abcdef",
    "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable",
    "[    0.004000] RIP: 0010:__do_sys_init_module+0xa4/0x120 Code: 48 8b 05 e1 24 0d 00",
    "[    1.234567] virtio_net virtio0 enp0s3: renamed from eth0",
    r#"@airlock {"v":1,"seq":7,"t_us":41230,"stage":"address_set","ok":true,"addr":"192.168.100.8/24","dev":"eth0","mac":"02:fc:c0:a8:64:08"}"#,
    "systemd[1]: network-setup.service: Main process exited, code=exited, status=203/EXEC",
    "systemd[1]: Dependency failed for systemd-networkd-wait-online.service - Wait for Network to be Configured.",
    "systemd[1]: systemd-ask-password-console.path: Deactivated successfully.",
    "dev-disk-by\\x2duuid-0a1b2c3d\\x2d1111\\x2d2222.device: Job timed out",
    "eth0: state DOWN, code 1, error code: 0xc0000005, state: running, code=ERR_HTTP2_SESSION_ERROR",
    "image browser@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 at /var/lib/airlock/images",
    "/var/lib/airlock/images/base@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08/rootfs.erofs",
    "/var/lib/airlock/images/base@sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08/initramfs",
    "Documentation: https://www.freedesktop.org/software/systemd/man/latest/systemd.network.html",
    "health http://192.168.100.8:8080/health refused (ECONNREFUSED)",
    "cpuid modifier eax 0b00000000000000000000000000000001, ebx 0bxxxxxxxxxxxx0001xxxxxxxxxxxx0010",
    "bearer authentication failed, basic ACPI tables, token expired, no password given",
    "SeaBIOS (version 1.16.2-debian-1.16.2-1) BOCHS  BXPC     00000001",
    "=== Network Setup Script Started at Mon Nov 23 13:00:00 UTC 2026 ===",
    "-----------------------------------------------------------------------",
    "qemu-system-x86_64: -netdev tap,id=n0,fd=12,vhost=off: could not open /dev/net/tun: No such file or directory",
    r#"{"return": {"status": "running", "singlestep": false, "running": true}}"#,
    "open /var/lib/airlock/vms/vm-01234567-89ab-4def-8123-456789abcdef/console.log, kept as ev-01234567-89ab-4def-8123-456789abcdef",
    r#"{"exit":{"code":1,"signal":null},"state":"up","tap":"fc-0123456789"}"#,
];

fn through(redactor: &mut Redactor, text: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    text.chunks(size.max(1)).for_each(|chunk| redactor.push(chunk, &mut out));
    redactor.finish(&mut out);
    out
}

#[test]
fn every_rule_compiles() {
    assert_eq!(rules::apply(b"words"), &b"words"[..]);
}

#[test]
fn secrets_go_and_everything_around_them_stays() {
    for (secret, lines) in SECRETS {
        for line in *lines {
            // The last `@` stands for the secret.
            let (before, after) = match line.split_once("@@") {
                Some((before, after)) => (before.to_owned(), format!("@{after}")),
                None => line.rsplit_once('@').map(|(before, after)| (before.to_owned(), after.to_owned())).unwrap(),
            };
            let redacted = redact_text(&format!("{before}{secret}{after}"));
            assert!(!redacted.contains(secret), "{secret} survived: {redacted}");
            if !before.contains("://") && !after.contains("://") {
                assert_eq!(redacted, format!("{before}{MARK}{after}"));
            } else {
                assert!(
                    redacted.starts_with(&before) && redacted.ends_with(&after) && redacted.contains(MARK),
                    "{redacted}"
                );
            }
            assert_eq!(redact_text(&redacted), redacted, "a second pass changes nothing");
        }
    }
}

#[test]
fn what_a_diagnosis_needs_stays() {
    for line in KEPT {
        assert_eq!(&redact_text(line), line);
    }
}

#[test]
fn a_private_key_goes_whole_and_what_follows_stays() {
    let text = "before\n-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\r\nbmUAAAAEbm9uZQ==\n-----END OPENSSH PRIVATE KEY-----\nafter it, words\n";
    let expected = format!("before\n-----BEGIN OPENSSH PRIVATE KEY-----\n{MARK}\r\n{MARK}\n{MARK}\nafter it, words\n");
    assert_eq!(redact_text(text), expected);
    // One that was cut hides no later log.
    let cut = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n[    1.0] kernel: panic, says 1)\nmore of it.\n";
    assert_eq!(
        redact_text(cut),
        format!("-----BEGIN PRIVATE KEY-----\n{MARK}\n[    1.0] kernel: panic, says 1)\nmore of it.\n")
    );
}

#[test]
fn a_url_that_a_terminal_broke_goes_to_its_end() {
    let text = "Open https://idp.example/oauth/authorize?client_id=abc&state=first\r\nsecond&code_challenge=third\r\n[  1.0] next line\r\n";
    let expected = format!("Open https://idp.example/oauth/authorize?{MARK}\r\n{MARK}\r\n[  1.0] next line\r\n");
    assert_eq!(redact_text(text), expected);
}

#[test]
fn json_is_redacted_inside_and_keeps_its_shape() {
    let mut value = json!({
        "cause": "login_cli_exited", "code": 3, "state": "up", "detail": "tool said: token=abc, code=exited",
        "env": {"API_KEY": "k", "HOME": "/root", "tokens": ["Bearer abc123"]}, "refreshToken": "r", "password": null,
        "log": ["first", "https://x/?code=1"], "otp": "123456",
    });
    redact_json(&mut value);
    assert_eq!(
        value,
        json!({
            "cause": "login_cli_exited", "code": 3, "state": "up", "detail": format!("tool said: token={MARK}, code=exited"),
            "env": {"API_KEY": MARK, "HOME": "/root", "tokens": [format!("Bearer {MARK}")]}, "refreshToken": MARK, "password": null,
            "log": ["first", format!("https://x/?{MARK}")], "otp": MARK,
        })
    );
}

#[test]
fn a_line_without_end_takes_constant_memory() {
    let mut redactor = Redactor::new();
    let mut out = Vec::new();
    let piece = "word ".repeat(13_000);
    for _ in 0..20 {
        redactor.push(piece.as_bytes(), &mut out);
        assert!(redactor.line.capacity() <= 2 * MAX_LINE, "{}", redactor.line.capacity());
    }
    redactor.push(b"password=hunter2", &mut out);
    redactor.finish(&mut out);
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text, piece.repeat(20) + "password=[redacted]");
    assert_eq!(redactor.redacted(), 1);
}

#[test]
fn sixteen_mebibytes_are_quick() {
    let line = KEPT[2];
    let text = format!("{line}\nwrote token=abc\n").repeat((16 << 20) / (line.len() + 17));
    let begun = std::time::Instant::now();
    let mut redactor = Redactor::new();
    let out = through(&mut redactor, text.as_bytes(), 64 * 1024);
    println!("{} MiB in {} ms", text.len() >> 20, begun.elapsed().as_millis());
    assert!(out.len() > text.len() && redactor.redacted() > 10_000);
}

/// Random tokens stand between words without any name. A few have no digit in them and pass for a word.
#[test]
fn random_tokens_are_told_from_words() {
    const ALPHABET: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    let mut state = 7u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    for (letters, length, most) in [(64, 43, 5), (62, 32, 15), (64, 24, 40), (36, 32, 5), (16, 32, 5)] {
        let survived = (0..1000)
            .filter(|_| {
                let token: String = (0..length).map(|_| char::from(ALPHABET[next(letters)])).collect();
                redact_text(&format!("saw {token} there")).contains(&token)
            })
            .count();
        assert!(survived <= most, "{survived} of 1000 with {letters} letters and length {length}");
    }
}

proptest! {
    #[test]
    fn any_bytes_pass_and_chunks_make_no_difference(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'='), Just(b'"')], 0..2000), size in 1usize..300,
    ) {
        let whole = through(&mut Redactor::new(), &bytes, bytes.len());
        prop_assert_eq!(through(&mut Redactor::new(), &bytes, size), whole);
    }

    #[test]
    fn ordinary_words_are_lossless(text in "([a-z]{1,12}[ ,.:\r\n-]){0,200}") {
        prop_assert_eq!(redact_text(&text), text);
    }
}
