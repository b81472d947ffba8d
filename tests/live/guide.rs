//! `docs/patch-authors.md` holds: its files are written, its commands run, and they print what it says.

use crate::support::emulator;
use std::path::{Path, PathBuf};
use std::process::Command;

const REPOSITORY: &str = env!("CARGO_MANIFEST_DIR");

/// A fenced block: what stands behind the fence, the line of the guide it begins at, and its text.
#[derive(Debug)]
struct Block<'a> {
    info: &'a str,
    line: usize,
    text: String,
}

fn blocks(guide: &str) -> Vec<Block<'_>> {
    let (mut blocks, mut open) = (Vec::new(), None::<Block>);
    for (number, line) in guide.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { info, line: number + 1, text: String::new() }),
            (Some(rest), Some(_)) => {
                assert_eq!(rest, "", "line {}: the block before it is not closed", number + 1);
                blocks.extend(open.take());
            }
            (None, Some(block)) => block.text.extend([line, "\n"]),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "not closed: {open:?}");
    blocks
}

/// The text of a file, with the crates of this repository in the place of those on the net. That is the one
/// difference to what a reader has.
fn from_here(text: &str) -> String {
    let mut text = text.to_owned();
    for (name, folder) in [("midflight", ""), ("midflight-patch", "/patch")] {
        let documented = format!("\n{name} = {{ git = \"https://github.com/midflight-rs/midflight\" }}\n");
        text = text.replace(&documented, &format!("\n{name} = {{ path = \"{REPOSITORY}{folder}\" }}\n"));
    }
    assert!(!text.contains("git ="), "a dependency in a form that this test does not know: {text}");
    text
}

/// Is `text` the pattern, with anything within a line for each `…`?
fn fits(pattern: &str, text: &str) -> bool {
    let line_fits = |pattern: &str, line: &str| {
        let Some((first, rest)) = pattern.split_once('…') else { return pattern == line };
        let Some(mut line) = line.strip_prefix(first) else { return false };
        let mut parts = rest.split('…').collect::<Vec<_>>();
        let last = parts.pop().unwrap();
        for part in parts {
            let Some(at) = line.find(part) else { return false };
            line = &line[at + part.len()..];
        }
        line.ends_with(last)
    };
    let (pattern, text) = (pattern.lines().collect::<Vec<_>>(), text.lines().collect::<Vec<_>>());
    pattern.len() == text.len() && pattern.iter().zip(&text).all(|(pattern, line)| line_fits(pattern, line))
}

/// What the commands print. They build into one folder in all runs, so that only the first takes long.
fn run(commands: &Block<'_>, folder: &Path, target: &Path) -> String {
    let cargo = Path::new(env!("CARGO")).parent().unwrap();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([cargo.to_owned()].into_iter().chain(std::env::split_paths(&path)));
    let output = Command::new("sh")
        .args(["-e", "-c", &commands.text])
        .current_dir(folder)
        .env("PATH", path.unwrap())
        .env("CARGO_TARGET_DIR", target)
        // Of the run of cargo that we are part of: how it was called is not how the reader calls it.
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "line {}: {}\n{out}{err}", commands.line, output.status);
    out.into_owned()
}

/// An empty folder for the reader's files, the same one in all runs, whose `target` is `target`, without what an earlier
/// run put there for the reader: a command that is missing from the guide has to be missed here.
fn fresh(target: &Path) -> PathBuf {
    let folder = target.with_extension("files");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).unwrap();
    }
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::create_dir_all(target.join("debug")).unwrap();
    for entry in std::fs::read_dir(target.join("debug")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() && entry.file_name() != ".cargo-lock" {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    std::os::unix::fs::symlink(target, folder.join("target")).unwrap();
    std::fs::copy(Path::new(REPOSITORY).join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    folder
}

#[test]
fn every_line_of_the_guide_works() {
    if emulator::is_there() {
        return; // The commands are for the machine that they are typed on.
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guide");
    let folder = fresh(&target);
    let guide = std::fs::read_to_string(Path::new(REPOSITORY).join("docs/patch-authors.md")).unwrap();
    let (mut printed, mut commands, mut compared) = (None, 0, 0);
    for block in blocks(&guide) {
        match block.info.split_once(" file=") {
            Some(("toml" | "rust", name)) => {
                assert_eq!(commands, 0, "line {}: a file after the first command", block.line);
                let path = folder.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, from_here(&block.text)).unwrap();
            }
            None if block.info == "sh" => {
                printed = Some(run(&block, &folder, &target));
                commands += 1;
            }
            None if block.info == "text" => {
                let printed = printed.take().unwrap_or_else(|| panic!("line {}: of what?", block.line));
                assert!(fits(&block.text, &printed), "line {}: this is printed:\n{printed}", block.line);
                compared += 1;
            }
            _ => panic!("line {}: a block of an unknown sort, {:?}", block.line, block.info),
        }
    }
    assert!((1..=5).contains(&commands), "{commands} commands are not five at most");
    assert!(compared > 0, "nothing was compared");
}

#[test]
fn expected_output_is_compared_line_by_line() {
    assert!(fits("a … c … d\ne\n", "a b c  d\ne\n"));
    assert!(fits("…\n", "\n"));
    for other in ["a c\n", "a b c d\n", "a … c … d\ne\nf\n", "b a c d\ne\n", "a c d\ne x\n"] {
        assert!(!fits("a … c … d\ne\n", other), "{other}");
    }
}
