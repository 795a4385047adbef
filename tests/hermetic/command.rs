//! Source `command`, there and back.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use farshore::sources::{
    Capture, Rebuild,
    command::{CommandOptions, CommandSource, CommandTarget},
};

use crate::support::exchange::{Capturing, Rebuilding, assert_checks, names};

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

fn source(words: &[&str]) -> CommandSource {
    CommandSource::new(CommandOptions { capture: argv(words), ..CommandOptions::default() })
}

async fn wait_until_gone(path: &Path) {
    // The process named in the file must end; its number is read from there.
    let pid = std::fs::read_to_string(path).unwrap();
    for _ in 0..100 {
        let state = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // A zombie has ended, whoever reaps it.
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("process {pid} is still running");
}

#[tokio::test]
async fn a_large_output_comes_back_byte_for_byte_in_a_private_file() {
    let directory = tempfile::tempdir().unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(&["seq", "1", "300000"])).await.unwrap();
    assert_eq!(captured.facts["exit_status"], 0);
    let path = directory.path().join("out");
    let target = CommandTarget::File(path.clone());
    let rebuilt = Rebuilding::anew().run(&target, capturing.sink.origin(), &captured.facts).await.unwrap();
    assert_checks(&rebuilt);
    let expected: String = (1..=300_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(directory.path()), ["out"]);
}

#[tokio::test]
async fn no_shell_comes_between() {
    let capturing = Capturing::first();
    capturing.run(&source(&["printf", "%s|", "$HOME; `id`", "a  b", "*"])).await.unwrap();
    let entries = capturing.sink.entries();
    assert_eq!(entries[0].path, b"output");
    assert_eq!(capturing.sink.bytes(&entries[0]), b"$HOME; `id`|a  b|*|");
}

#[tokio::test]
async fn a_program_that_fails_leaves_nothing_and_its_last_words_are_told() {
    let capturing = Capturing::first();
    let error =
        capturing.run(&source(&["sh", "-c", "echo half; echo no such namespace >&2; exit 3"])).await.unwrap_err().to_string();
    assert!(
        error.contains("exit status: 3") && error.contains("no such namespace") && error.ends_with("run it by hand to see why"),
        "{error}"
    );
    assert!(capturing.sink.entries().is_empty());
}

#[tokio::test]
async fn a_missing_program_is_named_with_the_next_step() {
    let error = Capturing::first().run(&source(&["no-such-program-here"])).await.unwrap_err().to_string();
    assert!(error.contains("no-such-program-here") && error.contains("check that it is installed"), "{error}");
    assert!(Capturing::first().run(&source(&[])).await.unwrap_err().to_string().contains("name a program"));
}

#[tokio::test]
async fn a_time_limit_ends_the_program_and_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let script = "sleep 600 & echo $! > child; echo begun; wait";
    let source = CommandSource::new(CommandOptions {
        capture: argv(&["sh", "-c", script]),
        timeout: Some(Duration::from_millis(500)),
        directory: Some(directory.path().to_owned()),
        ..CommandOptions::default()
    });
    let capturing = Capturing::first();
    let error = capturing.run(&source).await.unwrap_err().to_string();
    assert!(error.contains("ran longer than 500ms"), "{error}");
    assert!(capturing.sink.entries().is_empty());
    wait_until_gone(&directory.path().join("child")).await;
}

#[tokio::test]
async fn dropping_the_capture_ends_the_program_and_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let source = CommandSource::new(CommandOptions {
        capture: argv(&["sh", "-c", "sleep 600 & echo $! > child; wait"]),
        directory: Some(directory.path().to_owned()),
        ..CommandOptions::default()
    });
    let child = directory.path().join("child");
    let capturing = Capturing::first();
    tokio::select! {
        _ = capturing.run(&source) => panic!("it cannot end by itself"),
        () = async {
            while !std::fs::read_to_string(&child).is_ok_and(|pid| pid.ends_with('\n')) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        } => {}
    }
    wait_until_gone(&child).await;
}

#[tokio::test]
async fn an_empty_output_is_a_problem_and_long_words_are_kept_at_both_ends() {
    let capturing = Capturing::first();
    let script = "echo first >&2; yes | head -c 200000 >&2; echo last >&2";
    let captured = capturing.run(&source(&["sh", "-c", script])).await.unwrap();
    assert!(capturing.problems()[0].contains("wrote nothing"), "{:?}", capturing.problems());
    let said = captured.facts["stderr"].as_str().unwrap();
    assert!(said.starts_with("first\n") && said.ends_with("last\n") && said.contains("bytes left out"));
    assert_eq!(captured.facts["stderr_bytes"], 200_011);
}

#[tokio::test]
async fn the_environment_reaches_the_program_and_never_the_debug_output_or_the_facts() {
    let options = CommandOptions {
        capture: argv(&["sh", "-c", "test \"$TOKEN\" = hush-hush && echo ok"]),
        environment: [("TOKEN".to_owned(), "hush-hush".to_owned())].into(),
        ..CommandOptions::default()
    };
    let source = CommandSource::new(options);
    assert!(!format!("{source:?}").contains("hush-hush\"}") && format!("{source:?}").contains("TOKEN"));
    let captured = Capturing::first().run(&source).await.unwrap();
    assert!(
        !format!("{:?}", CommandOptions { environment: [("A".to_owned(), "secret".to_owned())].into(), ..Default::default() })
            .contains("secret")
    );
    assert_eq!(captured.facts["bytes"], 3);
}

#[tokio::test]
async fn an_output_goes_into_a_restore_command_whose_exit_status_is_obeyed() {
    let directory = tempfile::tempdir().unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(&["seq", "1", "100000"])).await.unwrap();
    let copy = directory.path().join("copy");
    let target = CommandTarget::Pipe(argv(&["dd", "status=none", &format!("of={}", copy.display())]));
    assert!(target.inspect(&captured.facts, false).await.unwrap().contains("standard input"));
    assert_checks(&Rebuilding::anew().run(&target, capturing.sink.origin(), &captured.facts).await.unwrap());
    assert_eq!(std::fs::read(&copy).unwrap(), capturing.sink.bytes(&capturing.sink.entries()[0]));

    let failing = CommandTarget::Pipe(argv(&["sh", "-c", "cat > /dev/null; echo cannot import >&2; exit 4"]));
    let error = Rebuilding::anew().run(&failing, capturing.sink.origin(), &captured.facts).await.unwrap_err().to_string();
    assert!(error.contains("exit status: 4") && error.contains("cannot import"), "{error}");

    let lazy = CommandTarget::Pipe(argv(&["true"]));
    let error = Rebuilding::anew().run(&lazy, capturing.sink.origin(), &captured.facts).await.unwrap_err().to_string();
    assert!(error.contains("stopped reading"), "{error}");

    let missing = CommandTarget::Pipe(argv(&["no-such-program-here"]));
    assert!(missing.inspect(&captured.facts, false).await.is_err());
}

#[tokio::test]
async fn an_existing_file_is_replaced_only_when_told_to() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    std::fs::write(&path, "precious").unwrap();
    let capturing = Capturing::first();
    let captured = capturing.run(&source(&["echo", "new"])).await.unwrap();
    let target = CommandTarget::File(path.clone());
    let error = target.inspect(&captured.facts, false).await.unwrap_err().to_string();
    assert!(error.contains("--into-existing"), "{error}");
    assert!(Rebuilding::anew().run(&target, capturing.sink.origin(), &captured.facts).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    Rebuilding::over().run(&target, capturing.sink.origin(), &captured.facts).await.unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
    assert_eq!(source(&["echo"]).kind(), "command");
}
