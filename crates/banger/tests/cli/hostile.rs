//! What terminals have been attacked with, in every place where a guest's, an image's or a
//! registry's words are shown: none of it reaches the terminal as it is.

use crate::fake::{Home, Request, vm};
use serde_json::{Value, json};
use std::collections::HashSet;

/// Attacks as text. Each is shown as what it is, or not at all.
const ATTACKS: [&str; 26] = [
    "\x1b[2J\x1b[1;1H",
    "\x1b[31mred\x1b[0m",
    "\x1b[?1049h\x1b[?25l",
    "\x1b[6n\x1b[c\x1b[>c",
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\",
    "\x1b]8;;http://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]1337;File=name=eA==:AAAA\x07",
    "\x1bP$qm\x1b\\",
    "\x1bP+q544e\x1b\\",
    "\x1b_apc\x1b\\\x1b^pm\x1b\\\x1bXsos\x1b\\",
    "\x1bc\x1b(0\x0e\x0f",
    "\u{9b}2J\u{9d}0;t\u{9c}\u{90}q\u{9c}",
    "\u{84}\u{85}\u{8d}",
    "ding\x07\x08\x08\x7f\0",
    "done\r            \rerror: none",
    "a\x0bb\x0cc",
    "evil\u{202e}gpj.exe\u{202c}",
    "a\u{2066}b\u{2067}c\u{2068}d\u{2069}\u{200e}\u{200f}\u{61c}",
    "zero\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}width\u{ad}",
    "line\u{2028}para\u{2029}",
    "tag\u{e0041}\u{e007f}s\u{e0100}",
    "fill\u{3164}\u{115f}\u{1160}\u{ffa0}\u{180e}",
    "join\u{34f}\u{1d173}\u{1d17a}",
    "note\u{fff9}a\u{fffa}b\u{fffb}",
];

/// Attacks that are no text: overlong and cut-off encodings, surrogates, stray bytes of C1.
const BYTES: [&[u8]; 6] = [
    b"\xc0\x9b2J",
    b"\xe0\x82\x9b2J",
    b"\xf0\x80\x80\x9b",
    b"\xed\xa0\x80\xed\xb0\x80",
    b"\x9b31m\x9d0;x\x9c",
    b"\xf8\x88\x80\x80\x80\xff\xfe\xc3",
];

/// All attacks in one text, and a line that is longer than any terminal.
fn hostile() -> String {
    ATTACKS.concat() + &"w".repeat(20_000)
}

fn hostile_vm() -> Value {
    let text = hostile();
    let mut vm = vm("dev", "crashed");
    for key in ["image", "kernel"] {
        vm[key] = json!(text);
    }
    vm["labels"] = json!({ text.clone(): text });
    vm["exit"] = json!({"reason": text, "detail": text, "at_unix_ms": 0});
    vm
}

fn problem() -> Value {
    let text = hostile();
    json!({"code": "internal", "message": text, "causes": [text], "hint": text})
}

fn answer(request: Request) {
    let text = hostile();
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/v1/vms") => request.json(&json!([hostile_vm()])),
        ("GET", "/v1/vms/dev") => request.json(&hostile_vm()),
        ("GET", path) if path.starts_with("/v1/vms/dev/logs") => {
            request.answer(200, &[text.as_bytes(), &BYTES.concat()].concat());
        }
        ("GET", path) if path.starts_with("/v1/events") => {
            let event = json!({
                "line": "event", "seq": 1, "at_unix_ms": 0, "event": "crashed",
                "id": "vm-0000beef", "name": "dev", "reason": text, "detail": text,
            });
            request.answer(200, format!("{event}\n").as_bytes());
        }
        ("GET", "/v1/df") => request.json(&json!([
            {"kind": text, "count": 1, "size": 1, "reclaimable": 1, "hint": text},
        ])),
        ("GET", "/v1/images") => request.json(&json!([{
            "digest": format!("sha256:{}", "a".repeat(64)), "tags": [], "size": 1, "disk_used": 1,
            "created_unix": 0, "source": text, "used_by": [text], "path": text,
        }])),
        ("POST", "/v1/vms/dev/start") => request.steps(&[
            json!({"progress": {"step": text, "detail": text}}),
            json!({"failed": problem()}),
        ]),
        _ => request.problem(500, &problem()),
    }
}

#[test]
fn nothing_of_the_corpus_reaches_a_terminal_from_any_command() {
    let home = Home::serve(answer);
    // What stands in an attack beyond ASCII and is no control character deceives by itself.
    let deceptive: HashSet<char> = ATTACKS
        .iter()
        .flat_map(|attack| attack.chars())
        .filter(|c| !c.is_ascii())
        .collect();
    let commands: [&[&str]; 17] = [
        &["vm", "ls"],
        &["vm", "ls", "--json"],
        &["vm", "ls", "--format", "{{.image}}{{.exit.detail}}{{.}}"],
        &["ps", "-a"],
        &["vm", "inspect", "dev"],
        &["vm", "inspect", "dev", "--json"],
        &["vm", "logs", "dev"],
        &["vm", "prune", "--dry-run"],
        &["vm", "prune"],
        &["events"],
        &["events", "--json"],
        &["system", "df"],
        &["image", "ls"],
        &["image", "ls", "--json"],
        &["vm", "start", "dev", "--progress", "plain"],
        &["vm", "stop", "dev"],
        &["vm", "stop", "dev", "--json"],
    ];
    for command in commands {
        let output = home.banger(command).output().unwrap();
        let all = [output.stdout.clone(), output.stderr.clone()].concat();
        let shown = String::from_utf8_lossy(&all).contains("1b[2J");
        assert!(
            shown || command[1] == "prune",
            "{command:?} shows nothing of it"
        );
        for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            let text = String::from_utf8(bytes);
            let text = text.unwrap_or_else(|error| panic!("{command:?} {name}: {error}"));
            let harmful = text
                .chars()
                .find(|c| (c.is_control() && *c != '\n') || deceptive.contains(c));
            assert_eq!(harmful, None, "{command:?} {name}");
        }
    }
    // It was there to be shown: made visible, it is.
    let logs = home.run(&["vm", "logs", "dev"]).stdout;
    for shown in [
        "\\x1b]52;c;ZXZpbA==\\x07",
        "\\u{202e}gpj",
        "\\xc0\\x9b2J",
        "\\x9b31m",
    ] {
        assert!(logs.contains(shown), "{shown}");
    }
}
