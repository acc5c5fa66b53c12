//! What each command does.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Context;
use clap::CommandFactory;
use hyper::{Method, body::Bytes, header};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    args::{Backend, BackendSetup, Cli, Command, Mode, Place, Plan, Run, Target, Vrrp},
    client::{self, Client},
    count, doctor, events, explain, log, plan,
    status::{self, Sample},
    style::Style,
};
use crate::{
    backend_setup,
    clock::every,
    config::{self, DEFAULT_SOCKET, Name},
    control::Done,
    core::{BackendChange, ExplainRequest, Status},
    daemon,
    sync::Key,
};

const DEFAULT_CONFIG: &str = "/etc/weir/weir.toml";

/// Runs a command to its end.
pub(super) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { place, command } = cli;
    if let Command::Doctor { service } = command {
        let client = Client::new(place.socket_path()?);
        return runtime()?.block_on(examine(&client, place.json, service.as_ref()));
    }
    carry_out(&place, command).map(|()| ExitCode::SUCCESS)
}

/// Those that are done or fail.
fn carry_out(place: &Place, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(options) => run_daemon(place, options),
        Command::Check => check(place),
        Command::Detach => daemon::detach(&config::load(&place.config_path())?),
        Command::SyncKey { file } => make_key(file.as_deref(), place.json),
        Command::BackendSetup(options) => set_up_backend(options, place.json),
        Command::Completions { shell } => {
            // Into memory first: the generator panics when its output is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "weir", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
        asking => {
            let client = Client::new(place.socket_path()?);
            runtime()?.block_on(ask(&client, place.json, asking))
        }
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

fn run_daemon(place: &Place, options: Run) -> anyhow::Result<()> {
    log::init(&options.log)?;
    daemon::run(place.config_path(), daemon::Options { object: options.object })
}

fn check(place: &Place) -> anyhow::Result<()> {
    let path = place.config_path();
    let config = config::load(&path)?;
    if let Some(sync) = &config.sync {
        Key::load(&sync.key_file)?;
    }
    let services = config.services.len();
    let backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    if place.json {
        return print_json(&serde_json::json!({ "services": services, "backends": backends }));
    }
    let (services, backends) = (count(services, "service"), count(backends, "backend"));
    Ok(writeln!(io::stdout(), "{} is fine: {services}, {backends}", path.display())?)
}

/// Makes a key and writes it into a file, or prints it.
fn make_key(file: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let key = Key::generate();
    let Some(file) = file else {
        let text = key.to_base64();
        return if json {
            print_json(&serde_json::json!({ "key": text }))
        } else {
            Ok(writeln!(io::stdout(), "{text}")?)
        };
    };
    key.store(file)?;
    if json {
        return print_json(&serde_json::json!({ "file": file }));
    }
    let file = file.display();
    Ok(writeln!(io::stdout(), "{file} holds a new key; copy it to every balancer")?)
}

/// Prepares this machine to be a backend, or takes that back.
fn set_up_backend(options: BackendSetup, json: bool) -> anyhow::Result<()> {
    let BackendSetup { services, mode: Mode::L2, undo, dry_run, state_dir } = options;
    let request = backend_setup::Request { services, undo, dry_run, state_dir };
    let report = runtime()?.block_on(backend_setup::run(&request))?;
    if json {
        return print_json(&report);
    }
    let mut out = io::stdout().lock();
    let would = if dry_run { "would " } else { "" };
    for change in &report.changes {
        writeln!(out, "{would}{change}")?;
    }
    if report.changes.is_empty() {
        writeln!(out, "nothing to do: everything is as it should be")?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

/// The commands that ask the daemon.
async fn ask(client: &Client, json: bool, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status { service, watch: None } => {
            show_status(client, json, service.as_ref()).await
        }
        Command::Status { service, watch: Some(seconds) } => {
            watch_status(client, service.as_ref(), Duration::from_secs(seconds.into())).await
        }
        Command::Backend(change) => {
            let answer = send_change(client, &change, false).await?;
            print(json, &answer, |done: Done| done.message + "\n")
        }
        Command::Plan(Plan::Backend(change)) => {
            let answer = send_change(client, &change, true).await?;
            print(json, &answer, |plan| plan::text(&plan))
        }
        Command::Explain { protocol, source, destination, opening } => {
            let question = ExplainRequest { protocol, source, destination, opening };
            let body = serde_json::to_vec(&question)?;
            let answer = client.ask(Method::POST, "/v1/explain", None, body).await?;
            print(json, &answer, |explanation| explain::sentence(&question, &explanation))
        }
        Command::Events { follow } => show_events(client, json, follow).await,
        Command::Vrrp(command) => {
            let path = match command {
                Vrrp::Preempt { instance } => format!("/v1/vrrp/{instance}/preempt"),
                Vrrp::Release { instance } => format!("/v1/vrrp/{instance}/release"),
            };
            let answer = client.ask(Method::POST, &path, None, Vec::new()).await?;
            print(json, &answer, |done: Done| done.message + "\n")
        }
        Command::Reload => {
            let answer = client.ask(Method::POST, "/v1/reload", None, Vec::new()).await?;
            print(json, &answer, |done: Done| done.message + "\n")
        }
        Command::Run(_)
        | Command::Check
        | Command::Detach
        | Command::SyncKey { .. }
        | Command::BackendSetup(_)
        | Command::Doctor { .. }
        | Command::Completions { .. } => {
            unreachable!("done in `run` and `carry_out`")
        }
    }
}

/// Looks for faults, and says by the exit status whether there are any.
async fn examine(client: &Client, json: bool, service: Option<&Name>) -> anyhow::Result<ExitCode> {
    let status = fetch_status(client, None).await?;
    if let Some(name) = service {
        let known = status.services.iter().any(|service| service.name == *name);
        anyhow::ensure!(known, "there is no service {name}; `weir status` lists them");
    }
    let report = crate::doctor::run(&status, service).await?;
    if json {
        print_json(&report)?;
    } else {
        io::stdout().write_all(doctor::text(&report, Style::of_stdout()).as_bytes())?;
    }
    Ok(doctor::exit_code(&report))
}

async fn show_status(client: &Client, json: bool, service: Option<&Name>) -> anyhow::Result<()> {
    if json {
        let path = service.map_or("/v1/status".to_owned(), |name| format!("/v1/services/{name}"));
        let answer = client.ask(Method::GET, &path, None, Vec::new()).await?;
        return Ok(io::stdout().write_all(&answer)?);
    }
    let status = fetch_status(client, service).await?;
    let text = status::text(&status, None, SystemTime::now(), Style::of_stdout());
    Ok(io::stdout().write_all(text.as_bytes())?)
}

async fn watch_status(
    client: &Client,
    service: Option<&Name>,
    interval: Duration,
) -> anyhow::Result<()> {
    let style = Style::of_stdout();
    let mut ticks = every(interval);
    let mut before: Option<(Status, Instant)> = None;
    loop {
        ticks.tick().await;
        let (status, at) = (fetch_status(client, service).await?, Instant::now());
        let sample = before
            .as_ref()
            .map(|(status, then)| Sample { status, seconds: (at - *then).as_secs_f64() });
        let text = status::text(&status, sample, SystemTime::now(), style);
        let mut out = io::stdout().lock();
        writeln!(out, "{}{text}", style.clear_screen())?;
        out.flush()?;
        before = Some((status, at));
    }
}

/// The state, of one service or all.
async fn fetch_status(client: &Client, service: Option<&Name>) -> anyhow::Result<Status> {
    let answer = client.ask(Method::GET, "/v1/status", None, Vec::new()).await?;
    let mut status: Status = understand(&answer)?;
    if let Some(name) = service {
        status.services.retain(|service| service.name == *name);
        let known = !status.services.is_empty();
        anyhow::ensure!(known, "there is no service {name}; `weir status` lists them");
    }
    Ok(status)
}

/// Sends a change, to be done or to be planned.
async fn send_change(client: &Client, change: &Backend, plan: bool) -> anyhow::Result<Bytes> {
    let path =
        |target: &Target| format!("/v1/services/{}/backends/{}", target.service, target.name);
    let post = |target: &Target, action: &str| {
        let path = format!("{}/{action}{}", path(target), query(&[("plan", plan)]));
        (Method::POST, path, None, Vec::new())
    };
    let put = |target: &Target, change: BackendChange, condition| {
        let body = serde_json::to_vec(&change)?;
        let path = path(target) + &query(&[("plan", plan)]);
        anyhow::Ok((Method::PUT, path, Some(condition), body))
    };
    let (method, path, condition, body) = match change {
        Backend::Add { target, address, change } => {
            put(target, change.with_address(Some(*address)), header::IF_NONE_MATCH)?
        }
        Backend::Set { target, address, change } => {
            put(target, change.with_address(*address), header::IF_MATCH)?
        }
        Backend::Remove { target, now } => {
            let path = path(target) + &query(&[("now", *now), ("plan", plan)]);
            (Method::DELETE, path, None, Vec::new())
        }
        Backend::Drain(target) => post(target, "drain"),
        Backend::Maintenance(target) => post(target, "maintenance"),
        Backend::Enable(target) => post(target, "enable"),
    };
    Ok(client.ask(method, &path, condition, body).await?)
}

/// What is asked for beyond the path: the flags that are set.
fn query(flags: &[(&str, bool)]) -> String {
    let set: Vec<String> =
        flags.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}=true")).collect();
    if set.is_empty() { String::new() } else { format!("?{}", set.join("&")) }
}

async fn show_events(client: &Client, json: bool, follow: bool) -> anyhow::Result<()> {
    let mut lines = client.stream(&format!("/v1/events?follow={follow}")).await?;
    let style = Style::of_stdout();
    while let Some(line) = lines.next().await? {
        let text =
            if json { String::from_utf8_lossy(&line).into() } else { events::text(&line, style) };
        writeln!(io::stdout(), "{text}")?;
    }
    anyhow::ensure!(!follow, "weir stopped; packets go on");
    Ok(())
}

// === places ===

impl Place {
    fn config_path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| DEFAULT_CONFIG.into())
    }

    /// The daemon's socket. A configuration that was named has to be readable, lest a change
    /// reach another daemon than was meant; the default one is only a hint.
    fn socket_path(&self) -> anyhow::Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let Some(path) = &self.config else {
            let socket = config::load_socket(Path::new(DEFAULT_CONFIG));
            return Ok(socket.unwrap_or_else(|_| DEFAULT_SOCKET.into()));
        };
        config::load_socket(path).with_context(|| {
            format!("{} does not say where the socket is; use --socket", path.display())
        })
    }
}

// === output ===

/// Prints an answer as it came, or as text.
fn print<T: DeserializeOwned>(
    json: bool,
    answer: &[u8],
    text: impl FnOnce(T) -> String,
) -> anyhow::Result<()> {
    let mut out = io::stdout();
    if json {
        return Ok(out.write_all(answer)?);
    }
    Ok(out.write_all(text(understand(answer)?).as_bytes())?)
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{}", serde_json::to_string(value)?)?)
}

fn understand<T: DeserializeOwned>(answer: &[u8]) -> Result<T, client::Error> {
    serde_json::from_slice(answer).map_err(|error| {
        client::Error::Refused(format!(
            "the daemon's answer makes no sense to this version ({error}); is it another one? \
             `--json` shows the answer"
        ))
    })
}
