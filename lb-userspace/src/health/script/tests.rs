use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use tokio::{sync::Semaphore, time::Instant};

use super::*;
use crate::{
    config::CheckKind,
    health::testing::{PATIENCE, eventually, soon, target},
};

/// Runs a shell script as a check with that timeout.
async fn run(script: &str, limit: Duration) -> Result<(), Failure> {
    run_argv(&["/bin/sh", "-c", script], limit).await
}

async fn run_argv(argv: &[&str], limit: Duration) -> Result<(), Failure> {
    let argv: Vec<String> = argv.iter().map(|&word| word.to_owned()).collect();
    let mut target = target("b1", 8080, CheckKind::Script(argv.clone()));
    target.check.timeout = limit;
    let turn = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    soon(check(&argv, &target, turn)).await
}

async fn reason(script: &str) -> String {
    run(script, PATIENCE).await.unwrap_err().to_string()
}

/// The processes of a group, from `/proc/PID/stat`: `pid (name) state ppid pgrp …`. Zombies count
/// if they are ours to collect; orphans are collected by init, at its leisure.
fn members(group: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let counts = |stat: &String| {
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<&str> = fields.split_whitespace().take(3).collect();
        matches!(fields[..], [state, parent, of] if of == group && (state != "Z" || parent == own))
    };
    fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(counts)
        .collect()
}

async fn all_gone(pid_file: &Path) {
    let group = fs::read_to_string(pid_file).unwrap();
    let group = group.trim();
    eventually("no process of the group is left", || members(group).is_empty()).await;
}

#[tokio::test]
async fn status_zero_is_healthy() {
    run("echo fine", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn another_status_fails_with_the_first_line() {
    assert_eq!(reason("echo disk full; echo more; exit 2").await, "exit status 2: disk full");
    assert_eq!(reason("echo to stderr >&2; exit 3").await, "exit status 3: to stderr");
    assert_eq!(reason("exit 1").await, "exit status 1");
}

#[tokio::test]
async fn a_signal_is_named() {
    assert_eq!(reason("echo bye; kill -TERM $$").await, "killed by SIGTERM: bye");
}

#[tokio::test]
async fn a_script_that_cannot_run_is_this_machines_fault() {
    let failure = run_argv(&["/nonexistent/check"], PATIENCE).await.unwrap_err().to_string();
    assert_eq!(
        failure,
        r#"this machine: cannot run "/nonexistent/check": no such file or directory"#
    );
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "").unwrap();
    fs::set_permissions(&plain, fs::Permissions::from_mode(0o644)).unwrap();
    let failure = run_argv(&[plain.to_str().unwrap()], PATIENCE).await.unwrap_err().to_string();
    assert!(failure.ends_with(": permission denied"), "{failure}");
    assert!(run_argv(&[], PATIENCE).await.is_err());
}

#[tokio::test]
async fn there_is_no_shell_between() {
    run_argv(&["/usr/bin/test", "$HOME;exit 1", "=", "$HOME;exit 1"], PATIENCE).await.unwrap();
}

#[tokio::test]
async fn the_environment_is_ours_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("env");
    run_argv(&["/bin/sh", "-c", r#"/usr/bin/env > "$0""#, file.to_str().unwrap()], PATIENCE)
        .await
        .unwrap();
    let env = fs::read_to_string(file).unwrap();
    // The shell adds some of its own.
    let mut env: Vec<&str> = env
        .lines()
        .filter(|line| !["PWD=", "SHLVL=", "_=", "OLDPWD="].iter().any(|own| line.starts_with(own)))
        .collect();
    env.sort_unstable();
    assert!(env.remove(0).starts_with("PATH=/"));
    assert_eq!(
        env,
        [
            "WEIR_ADDRESS=127.0.0.1",
            "WEIR_BACKEND=b1",
            "WEIR_PORT=8080",
            "WEIR_SERVICE=web",
            "WEIR_VIP=192.0.2.10",
            "WEIR_VIP_PORT=80",
        ]
    );
}

#[tokio::test]
async fn much_output_does_not_hold_the_script_up() {
    // More than a pipe holds (64 KiB).
    let much = reason("echo first; head -c 1000000 /dev/zero; exit 4").await;
    assert_eq!(much, "exit status 4: first");
}

#[tokio::test]
async fn a_stubborn_script_is_killed_with_its_children() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "trap '' TERM HUP INT; echo $$ > {0}.new; sh -c 'sleep 1000 & sleep 1000' & \
         mv {0}.new {0}; while :; do sleep 1000; done",
        file.display()
    );
    let limit = Duration::from_secs(2);
    let start = Instant::now();
    let failure = run(&script, limit).await.unwrap_err();
    assert_eq!(failure.to_string(), "no answer within 2s");
    assert!(start.elapsed() < limit * 5, "{:?}", start.elapsed());
    all_gone(&file).await;
}

#[tokio::test]
async fn what_a_script_leaves_behind_ends_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    run(&format!("echo $$ > {}; sleep 1000 & exit 0", file.display()), PATIENCE).await.unwrap();
    all_gone(&file).await;
}

#[tokio::test]
async fn a_process_that_left_the_group_holds_nothing_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script = format!(
        "setsid sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' & \
         while ! [ -e {0} ]; do sleep 0.01; done; echo left; exit 5",
        file.display()
    );
    let failure = run(&script, PATIENCE).await.unwrap_err();
    assert_eq!(failure.to_string(), "exit status 5: left");
    // It holds the pipe still.
    let id = fs::read_to_string(&file).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(Pid::from_raw(id), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_stopped_check_leaves_no_process() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pid");
    let script =
        format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000 & sleep 1000", file.display());
    let check = tokio::spawn(async move { run(&script, PATIENCE).await });
    eventually("the script runs", || file.exists()).await;
    check.abort();
    all_gone(&file).await;
}

#[tokio::test]
async fn the_turn_is_given_back() {
    let turns = Arc::new(Semaphore::new(1));
    for (script, limit) in [("exit 0", PATIENCE), ("sleep 1000", Duration::from_millis(50))] {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        let mut target = target("b1", 1, CheckKind::Script(argv.to_vec()));
        target.check.timeout = limit;
        let turn = turns.clone().acquire_owned().await.unwrap();
        let _ = soon(check(&argv, &target, turn)).await;
        eventually("the turn is given back", || turns.available_permits() == 1).await;
    }
}
