//! The units, held against systemd's own checks. Needs `systemd-analyze`, and fails without it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use clap::Parser;
use farshore::cli::Cli;

const SERVICES: [&str; 4] =
    ["farshore-backup@.service", "farshore-drill@.service", "farshore-verify@.service", "farshore-prune@.service"];
/// They run for ever, and no timer starts them.
const DAEMONS: [&str; 2] = ["farshore-wal@.service", "farshore-wal-receive@.service"];
const TIMERS: [&str; 4] = ["farshore-backup@.timer", "farshore-drill@.timer", "farshore-verify@.timer", "farshore-prune@.timer"];

/// What `systemd-analyze security` may say at most, times ten ("OK" begins at 5.0; 10.0 is no protection at all).
const MOST_EXPOSURE: u32 = 20;

fn systemd_analyze(arguments: &[&str], directory: &Path) -> Output {
    Command::new("systemd-analyze")
        .args(arguments)
        .current_dir(directory)
        .env("SYSTEMD_UNIT_PATH", format!("{}:", directory.display()))
        .env("SYSTEMD_LOG_LEVEL", "warning")
        .output()
        .unwrap_or_else(|error| panic!("systemd-analyze cannot be run ({error}); install Debian's package `systemd`"))
}

fn unit(name: &str) -> String {
    fs::read_to_string(Path::new("systemd").join(name)).unwrap_or_else(|error| panic!("systemd/{name}: {error}"))
}

/// A directory with instances `demo` of all units, whose program is a stub: `verify` refuses a program that is not installed.
fn installed() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let stub = directory.path().join("farshore");
    fs::write(&stub, "#!/bin/sh\n").expect("a file in it");
    fs::set_permissions(&stub, fs::Permissions::from_mode(0o755)).expect("a file in it");
    for name in SERVICES.into_iter().chain(TIMERS).chain(DAEMONS) {
        let text = unit(name).replace("/usr/bin/farshore", &stub.display().to_string());
        fs::write(directory.path().join(name), text).expect("a file in it");
    }
    let path = directory.path().to_path_buf();
    (directory, path)
}

fn instance(name: &str) -> String {
    name.replace('@', "@demo")
}

#[test]
fn systemd_finds_nothing_to_say_about_the_units() {
    let (_guard, directory) = installed();
    for name in SERVICES.into_iter().chain(TIMERS).chain(DAEMONS) {
        let output = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no", &instance(name)], &directory);
        let said = String::from_utf8_lossy(&output.stderr);
        let about_ours: Vec<&str> = said.lines().filter(|line| line.contains("farshore")).collect();
        assert!(output.status.success() && about_ours.is_empty(), "{name}: {said}");
    }
}

#[test]
fn systemd_does_find_a_misspelt_directive() {
    let (_guard, directory) = installed();
    let path = directory.join(SERVICES[0]);
    fs::write(&path, fs::read_to_string(&path).unwrap().replace("ProtectSystem=", "ProtecSystem=")).unwrap();
    let output = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no", &instance(SERVICES[0])], &directory);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("ProtecSystem"), "the check above sees nothing: {said}");
}

#[test]
fn the_services_are_confined() {
    let (_guard, directory) = installed();
    for name in SERVICES.into_iter().chain(DAEMONS) {
        let threshold = format!("--threshold={MOST_EXPOSURE}");
        let output = systemd_analyze(&["security", "--no-pager", "--offline=yes", &threshold, &instance(name)], &directory);
        let said = String::from_utf8_lossy(&output.stdout);
        let verdict = said.lines().find(|line| line.contains("Overall exposure")).unwrap_or("no verdict");
        assert!(output.status.success() && said.contains("Overall exposure"), "{name}: {verdict}\n{said}");
    }
}

#[test]
fn each_timer_starts_its_service_and_catches_up_after_a_night_off() {
    for (timer, service) in TIMERS.into_iter().zip(SERVICES) {
        assert_eq!(
            timer.trim_end_matches(".timer"),
            service.trim_end_matches(".service"),
            "a timer starts the unit of its own name"
        );
        let text = unit(timer);
        for line in ["Persistent=true", "FixedRandomDelay=yes", "WantedBy=timers.target"] {
            assert!(text.lines().any(|other| other == line), "{timer} has no {line}");
        }
    }
}

#[test]
fn each_service_starts_a_command_that_the_program_takes() {
    for name in SERVICES {
        let text = unit(name);
        let started: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).collect();
        let [command] = started.as_slice() else { panic!("{name} starts {started:?}, not one command of /usr/bin") };
        Cli::try_parse_from(command.replace("%i", "demo").split_whitespace()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let subcommand = name.trim_start_matches("farshore-").trim_end_matches("@.service");
        let share = if subcommand == "verify" { " --read-data=1/30" } else { "" };
        assert_eq!(*command, format!("farshore {subcommand} %i{share}"), "the unit is named after what it does");
    }
}

#[test]
fn what_empties_the_spool_is_started_for_ever_and_a_push_can_leave_it_to_that() {
    let text = unit(DAEMONS[0]);
    let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
    Cli::try_parse_from(command.replace("%i", "demo").split_whitespace()).unwrap();
    let push = text.lines().find_map(|line| line.split_once("archive_command = '")).unwrap().1.trim_end_matches('\'');
    Cli::try_parse_from(push.split_whitespace()).unwrap();
    assert!(text.contains("ReadWritePaths=-/var/spool/farshore") && text.contains("Restart=always"));
}

#[test]
fn the_units_run_as_the_runbook_says() {
    let runbook = fs::read_to_string("docs/runbook.md").unwrap();
    let (_, chapter) = runbook.split_once("## A self-run PostgreSQL, from nothing\n").expect("the chapter");
    let row = |user: &str| chapter.lines().find(|line| line.starts_with(&format!("| `{user}` |"))).expect("a row of the table");
    assert!(row("farshore").contains("all units but one") && row("postgres").contains("the unit `farshore-wal@`"));
    for name in SERVICES.into_iter().chain(DAEMONS) {
        let user = if name == DAEMONS[0] { "postgres" } else { "farshore" };
        assert!(unit(name).contains(&format!("\nUser={user}\nGroup={user}\n")), "{name} does not run as {user}");
    }
    // What the installation copies is all there is.
    let sysusers = unit("farshore.sysusers");
    assert!(sysusers.contains("u farshore - \"Farshore backup agent\" /var/lib/farshore"));
    for line in ["systemd/*.service systemd/*.timer /etc/systemd/system/", "-m 0700 -o farshore -g farshore /var/lib/farshore"] {
        assert!(chapter.contains(line), "the installation lacks {line:?}");
    }
}

#[test]
fn what_receives_the_log_is_started_again_but_for_what_a_person_must_mend() {
    let text = unit(DAEMONS[1]);
    let command = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/")).unwrap();
    let other =
        text.lines().find_map(|line| line.strip_prefix("#                           [Service] ExecStart=/usr/bin/")).unwrap();
    for command in [command, other] {
        Cli::try_parse_from(command.replace("%i", "demo").split_whitespace()).unwrap();
    }
    let code = farshore::report::ExitCode::Source.code();
    assert!(text.contains("Restart=always") && text.contains(&format!("RestartPreventExitStatus={code}\n")));
}

#[test]
fn the_variables_and_directories_of_the_services_are_those_that_the_program_reads() {
    // FARSHORE_IDENTITY_FILE is a variable of --identity; the cache goes where systemd makes a directory for it.
    for (service, command) in [(SERVICES[1], "drill"), (SERVICES[2], "verify")] {
        let text = unit(service);
        let help = Cli::try_parse_from(["farshore", command, "--help"]).unwrap_err().to_string();
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for line in text.lines().filter_map(|line| line.strip_prefix("Environment=")) {
            for (variable, _) in line.split_whitespace().filter_map(|pair| pair.split_once('=')) {
                let known = !variable.starts_with("FARSHORE_") || help.contains(&format!("[env: {variable}"));
                assert!(known, "the program knows no variable {variable}");
            }
        }
        assert!(text.contains("FARSHORE_IDENTITY_FILE=%d/identity") && text.contains("LoadCredential=identity:"));
    }
    for name in SERVICES {
        assert!(unit(name).contains("CacheDirectory=farshore"), "{name} has no place for the local index");
    }
}

#[test]
fn the_credentials_that_the_samples_name_are_loaded_or_explained() {
    let text = unit(SERVICES[0]);
    for entry in fs::read_dir("policies").unwrap() {
        let policy = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in policy.lines().filter(|line| !line.trim_start().starts_with('#')) {
            if let Some((_, rest)) = line.split_once("credential = \"") {
                let name = rest.split('"').next().unwrap();
                assert!(text.contains(&format!("LoadCredential={name}:/etc/farshore/credentials/")), "{name} is loaded by nobody");
            }
        }
    }
}
