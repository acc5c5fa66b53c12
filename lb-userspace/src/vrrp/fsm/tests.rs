//! The state machine against golden scripts: what happens when, what follows, and what it waits
//! for then. The scripts name the lines of the RFCs' state tables that they cover.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::net::IpAddr;

use super::*;
use crate::{
    config::parse_duration,
    vrrp::{echo::Silence, packet::Advert},
};

/// Plays a script and reports the first line that went otherwise.
fn play(script: &str) {
    let mut fsm = None;
    for (number, line) in (1..).zip(script.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(settings) = line.strip_prefix("router ") {
            fsm = Some(Fsm::new(read_settings(settings)));
            continue;
        }
        let (happening, expected) = line.split_once("->").expect(line);
        let (time, event) = happening.trim().split_once(' ').expect(line);
        let now = parse_duration(time).expect(line);
        let fsm = fsm.as_mut().expect("a script begins with `router`");
        let outcome = act(fsm, event.trim(), now);
        let seen = format!("{outcome} | {}", describe(fsm));
        let expected = expected.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(seen, expected, "line {number}: {line}");
    }
}

fn read_settings(text: &str) -> Settings {
    let mut settings = Settings {
        version: Version::V3,
        priority: 100,
        interval: Duration::from_secs(1),
        preempt: true,
        preempt_delay: Duration::ZERO,
        own: "10.0.0.1".parse().unwrap(),
        patience: None,
        grouped: false,
        lacks_tables: false,
    };
    for word in text.split_whitespace() {
        match word.split_once('=').unwrap_or((word, "")) {
            ("v2", _) => settings.version = Version::V2,
            ("v3", _) => settings.version = Version::V3,
            ("patience", value) => settings.patience = Some(parse_duration(value).expect(word)),
            ("grouped", _) => settings.grouped = true,
            ("lacking", _) => settings.lacks_tables = true,
            ("nopreempt", _) => settings.preempt = false,
            ("priority", value) => settings.priority = value.parse().expect(word),
            ("interval", value) => settings.interval = parse_duration(value).expect(word),
            ("delay", value) => settings.preempt_delay = parse_duration(value).expect(word),
            ("own", value) => settings.own = value.parse().expect(word),
            _ => panic!("{word}"),
        }
    }
    settings
}

fn act(fsm: &mut Fsm, event: &str, now: Duration) -> String {
    let words: Vec<&str> = event.split_whitespace().collect();
    let refused = |refusal: Refusal| format!("refused: {refusal}");
    let outputs = match words[..] {
        ["start"] => fsm.handle(Input::Start, now),
        ["timer"] => fsm.handle(Input::Timer, now),
        ["leave"] => fsm.handle(Input::Leave, now),
        ["stop", ..] => fsm.handle(Input::Stop(words[1..].join(" ")), now),
        ["advert", from, priority, interval] => {
            let advert = Advert {
                router_id: 1,
                priority: priority.parse().unwrap(),
                interval: parse_duration(interval).unwrap(),
                addresses: vec!["192.0.2.1".parse().unwrap()],
            };
            let from: IpAddr = from.parse().unwrap();
            fsm.handle(Input::Advert(from, &advert), now)
        }
        ["set", ..] => {
            let Settings { version, interval, preempt, own, .. } = fsm.settings().clone();
            let mut text = format!("v{} interval={}ns own={own} ", version.number(), 0);
            text = text.replace("interval=0ns", &format!("interval={}ms", interval.as_millis()));
            text.push_str(if preempt { "" } else { "nopreempt " });
            text.push_str(&words[1..].join(" "));
            fsm.configure(read_settings(&text), now)
        }
        // The first and the last of three probes that had no answer.
        ["silent", since, last, interval] => {
            let [since, last, interval] =
                [since, last, interval].map(|time| parse_duration(time).unwrap());
            fsm.handle(Input::Silent(Silence { since, last, interval }), now)
        }
        ["answers"] => fsm.handle(Input::Answers, now),
        ["answered", sent] => fsm.handle(Input::Answered(parse_duration(sent).unwrap()), now),
        ["spoke"] => fsm.handle(Input::Spoke(now), now),
        ["packets", count] => fsm.handle(Input::Arrived(count.parse().unwrap()), now),
        ["stalled", late] => fsm.handle(Input::Stalled(parse_duration(late).unwrap()), now),
        ["preempt"] => match fsm.preempt(now) {
            Ok(outputs) => outputs,
            Err(refusal) => return refused(refusal),
        },
        ["release"] => match fsm.release(now) {
            Ok(outputs) => outputs,
            Err(refusal) => return refused(refusal),
        },
        ["follow", "master"] => fsm.follow(State::Master, now),
        ["follow", "backup"] => fsm.follow(State::Backup, now),
        _ => panic!("{event}"),
    };
    let words: Vec<String> = outputs.iter().map(output).collect();
    if words.is_empty() { "-".to_owned() } else { words.join(", ") }
}

fn output(output: &Output) -> String {
    match output {
        Output::Send(priority) => format!("send {priority}"),
        Output::Take => "take".to_owned(),
        Output::Withdraw => "withdraw".to_owned(),
        Output::Changed { to, why, .. } => format!("{to}: {why}"),
        Output::Kept => "kept".to_owned(),
        Output::Awaits(peer) => format!("await {peer}"),
        Output::Announce => "announce".to_owned(),
        Output::Ask => "ask".to_owned(),
        Output::CutOff => "cut off".to_owned(),
        Output::Split(split) => format!("split: {split}"),
        Output::SplitOver(_) => "split over".to_owned(),
    }
}

fn describe(fsm: &Fsm) -> String {
    let mut text = fsm.state().to_string();
    if fsm.is_waiting() {
        text.push_str(" waiting");
    }
    if fsm.is_leaving() {
        text.push_str(" leaving");
    }
    if fsm.is_in_doubt() {
        text.push_str(" in doubt");
    }
    if fsm.is_cut_off() {
        text.push_str(" cut off");
    }
    match fsm.deadline() {
        Some(time) => format!("{text} until {}ms", millis(time)),
        None => text,
    }
}

/// Exact: microseconds are what timers are held in, and more.
fn millis(time: Duration) -> String {
    let nanos = time.as_nanos();
    let text = format!("{}.{:06}", nanos / 1_000_000, nanos % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            play(include_str!(concat!("scripts/", stringify!($name), ".txt")));
        }
    )*};
}

scripts!(
    initialize,
    backup,
    master,
    timers,
    preemption,
    version_2,
    leaving,
    planned_switch,
    groups,
    live_changes,
    hosts,
    stalls,
    tables,
    split,
    witness,
);
