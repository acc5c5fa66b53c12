//! Running other programs: announced, checked, and never twice on the screen.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Says what happens next, on one line, before it starts.
pub(crate) fn announce(step: &str) {
    println!("==> {step}");
}

/// Runs a command on the terminal's own output; a non-zero status is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = describe(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// Runs a command and returns its standard output; its standard error is shown only if it fails.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let line = describe(command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed: {}\n{}", output.status, errors.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// Runs a command, gives each line of its standard output to `see` as it comes, and returns
/// whether it succeeded.
pub(crate) fn follow(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let line = describe(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let stdout = child.stdout.take().expect("standard output was set to a pipe above");
    let mut reader = BufReader::new(stdout);
    let mut bytes = Vec::new();
    // Lines of bytes: a test may print anything, and a broken character must not end the reading.
    while reader.read_until(b'\n', &mut bytes).with_context(|| format!("reading `{line}`"))? > 0 {
        see(String::from_utf8_lossy(&bytes).trim_end_matches('\n'));
        bytes.clear();
    }
    let status = child.wait().with_context(|| format!("waiting for `{line}`"))?;
    Ok(status.success())
}

/// A command that runs as root: through `sudo -E` for everybody else.
pub(crate) fn as_root(program: impl AsRef<OsStr>, variables: &[(&str, &OsStr)]) -> Command {
    if is_root() {
        let mut command = Command::new(program);
        command.envs(variables.iter().copied());
        return command;
    }
    through_sudo(program.as_ref(), variables)
}

/// Runs this very command again as root, for everybody else; returns whether it did.
pub(crate) fn again_as_root() -> Result<bool> {
    if is_root() {
        return Ok(false);
    }
    announce("this needs root: going on through sudo");
    let program = std::env::current_exe().context("finding this program")?;
    run(through_sudo(program.as_os_str(), &[]).args(std::env::args_os().skip(1)))?;
    Ok(true)
}

/// The variables are set behind sudo, because its policy may drop them on the way.
fn through_sudo(program: &OsStr, variables: &[(&str, &OsStr)]) -> Command {
    let mut command = Command::new("sudo");
    command.args(["-E", "env"]);
    for (name, value) in variables {
        let mut assignment = OsString::from(name);
        assignment.push("=");
        assignment.push(value);
        command.arg(assignment);
    }
    command.arg(program);
    command
}

/// Whether this process has root's user id.
pub(crate) fn is_root() -> bool {
    // `/proc/self` belongs to the effective user.
    std::fs::metadata("/proc/self")
        .is_ok_and(|metadata| std::os::unix::fs::MetadataExt::uid(&metadata) == 0)
}

/// The first program of this name on PATH or where Debian keeps the administrator's programs,
/// which are not on everybody's PATH.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| is_executable(candidate))
}

/// Whether the path is a file that somebody may execute.
pub(crate) fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        metadata.is_file() && mode & 0o111 != 0
    })
}

/// The cargo that started us, or the one on PATH.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // `cargo run` sets it to xtask's own, and build scripts of others would take that for a change.
    command.env_remove("CARGO_MANIFEST_DIR");
    command.current_dir(crate::workspace());
    command
}

/// The command as one would type it.
fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_is_named_with_its_own_words() {
        let error = capture(Command::new("sh").args(["-c", "echo no disk >&2; exit 3"]))
            .expect_err("the command exits with 3");
        let text = format!("{error:#}");
        assert!(text.contains("sh -c") && text.contains("no disk"), "{text}");
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it() {
        let error = run(&mut Command::new("weir-no-such-program")).expect_err("it does not exist");
        assert!(format!("{error:#}").contains("weir-no-such-program"));
    }

    #[test]
    fn variables_reach_a_program_behind_sudo() {
        let variables = [("WEIR_BIN", OsStr::new("/a path/weir"))];
        let command = through_sudo(OsStr::new("timeout"), &variables);
        let words: Vec<&OsStr> = command.get_args().collect();
        assert_eq!(command.get_program(), "sudo");
        assert_eq!(words, ["-E", "env", "WEIR_BIN=/a path/weir", "timeout"]);
    }

    #[test]
    fn followed_output_comes_line_by_line_even_if_it_is_no_text() {
        let mut lines = Vec::new();
        let succeeded = follow(Command::new("printf").arg(r"one\n\377two\nlast"), |line| {
            lines.push(line.to_owned());
        })
        .expect("printf exists");
        assert!(succeeded);
        assert_eq!(lines, ["one", "\u{fffd}two", "last"]);
    }
}
