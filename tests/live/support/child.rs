//! A test that runs in a process of its own: this binary again, with one test.

use std::process::Stdio;

const MARK: &str = "MIDFLIGHT_TEST_CHILD";

/// In the parent: runs test `name` (its path in this binary) in a child, and passes on how it went. In the
/// child: runs `body`.
pub fn run(name: &str, body: impl FnOnce()) {
    run_with(name, &[], body);
}

/// As [`run`], with variables in the child's environment.
pub fn run_with(name: &str, environment: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var(MARK).as_deref() == Ok(name) {
        super::alloc::watch();
        return body();
    }
    let output = output(name, environment);
    print!("{}", output.0);
    assert!(output.1, "the child that ran {name} failed:\n{}", output.0);
}

/// As [`run`], for a child that must die; what it printed must contain `last_words`.
pub fn must_die(name: &str, last_words: &str, body: impl FnOnce()) {
    if std::env::var(MARK).as_deref() == Ok(name) {
        return body();
    }
    let (text, lived) = output(name, &[]);
    assert!(!lived, "the child that ran {name} should have died:\n{text}");
    assert!(text.contains(last_words), "the child that ran {name} died otherwise:\n{text}");
}

fn output(name: &str, environment: &[(&str, &str)]) -> (String, bool) {
    let child = super::emulator::command(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(MARK, name)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned() + &String::from_utf8_lossy(&child.stderr);
    // A name that matches no test would pass without having run.
    assert!(text.contains("running 1 test"), "no test is called {name}:\n{text}");
    (text, child.status.success())
}
