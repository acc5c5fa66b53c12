//! What each path of the control socket does.

use hyper::{HeaderMap, Method, Request as HttpRequest, StatusCode, body::Incoming, header};
use serde::{Deserialize, Serialize};

use super::{
    Handle, Request,
    error::{invalid, malformed, refused, reload_refused},
};
use crate::{
    config::Name,
    core::{BackendChange, BackendId, Command, CommandError, Expect, Status},
    http::{
        Failure, Limits, Response,
        body::{json, read_json},
    },
    vrrp::VrrpCommand,
};

/// The answer to a change: one sentence on what was done.
#[derive(Debug, Serialize, Deserialize)]
pub struct Done {
    /// The sentence.
    pub message: String,
}

/// What a path names, names checked.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Status,
    Services,
    Service(Name),
    Backend(BackendId),
    Maintenance(BackendId),
    Enable(BackendId),
    Drain(BackendId),
    Vrrp(VrrpCommand),
    Explain,
    Events,
    Reload,
}

/// Answers a request, except for events, which the server streams.
pub(super) async fn answer(
    request: HttpRequest<Incoming>,
    handle: &Handle,
    limits: &Limits,
) -> Result<Answer, Failure> {
    let route = Route::parse(request.uri().path())?;
    route.check_method(request.method())?;
    let patience = limits.answer_timeout;
    let response = match route {
        Route::Status => json(StatusCode::OK, &handle.status(patience).await?),
        Route::Services => json(StatusCode::OK, &handle.status(patience).await?.services),
        Route::Service(name) => one_service(handle.status(patience).await?, name)?,
        Route::Backend(id) if request.method() == Method::DELETE => {
            let [plan, now] = flags(request.uri().query(), ["plan", "now"])?;
            command(handle, limits, Command::Remove { id, now }, plan).await?
        }
        Route::Backend(id) => {
            let [plan] = flags(request.uri().query(), ["plan"])?;
            let expect = expectation(request.headers())?;
            let change: BackendChange = read_json(request.into_body(), limits).await?;
            command(handle, limits, Command::Put { id, change, expect }, plan).await?
        }
        Route::Maintenance(id) => {
            administer(&request, handle, limits, Command::Maintenance(id)).await?
        }
        Route::Enable(id) => administer(&request, handle, limits, Command::Enable(id)).await?,
        Route::Drain(id) => administer(&request, handle, limits, Command::Drain(id)).await?,
        Route::Vrrp(command) => {
            let ask = |answer| Request::Vrrp(command, answer);
            done(handle.ask(patience, ask).await?, Expect::Any)?
        }
        Route::Explain => {
            let question = read_json(request.into_body(), limits).await?;
            let ask = |answer| Request::Explain(question, answer);
            json(StatusCode::OK, &handle.ask(patience, ask).await?)
        }
        Route::Events => {
            let [follow] = flags(request.uri().query(), ["follow"])?;
            return Ok(Answer::Events { follow });
        }
        Route::Reload => match handle.ask(patience, Request::Reload).await? {
            Ok(message) => json(StatusCode::OK, &Done { message }),
            Err(faults) => return Err(reload_refused(&faults)),
        },
    };
    Ok(Answer::Whole(response))
}

/// How a request is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// With this.
    Whole(Response),
    /// With the events kept and, if so asked, those to come.
    Events { follow: bool },
}

async fn administer(
    request: &HttpRequest<Incoming>,
    handle: &Handle,
    limits: &Limits,
    what: Command,
) -> Result<Response, Failure> {
    let [plan] = flags(request.uri().query(), ["plan"])?;
    command(handle, limits, what, plan).await
}

/// Has a command carried out, or says what it would move.
async fn command(
    handle: &Handle,
    limits: &Limits,
    command: Command,
    plan: bool,
) -> Result<Response, Failure> {
    let expect = match &command {
        Command::Put { expect, .. } => *expect,
        _ => Expect::Any,
    };
    if plan {
        let ask = |answer| Request::Plan(command, answer);
        return match handle.ask(limits.answer_timeout, ask).await? {
            Ok(plan) => Ok(json(StatusCode::OK, &plan)),
            Err(error) => Err(refused(&error, expect)),
        };
    }
    let ask = |answer| Request::Command(command, answer);
    done(handle.ask(limits.answer_timeout, ask).await?, expect)
}

fn done(outcome: Result<String, CommandError>, expect: Expect) -> Result<Response, Failure> {
    match outcome {
        Ok(message) => Ok(json(StatusCode::OK, &Done { message })),
        Err(error) => Err(refused(&error, expect)),
    }
}

fn one_service(status: Status, name: Name) -> Result<Response, Failure> {
    match status.services.into_iter().find(|service| service.name == name) {
        Some(service) => Ok(json(StatusCode::OK, &service)),
        None => Err(refused(&CommandError::NoService(name), Expect::Any)),
    }
}

/// `If-None-Match: *` and `If-Match: *` (RFC 9110, 13.1). We keep no entity tags to compare, so
/// anything but the star would be ignored at the client's cost: it is refused.
fn expectation(headers: &HeaderMap) -> Result<Expect, Failure> {
    let has = |name: header::HeaderName| match headers.get(&name) {
        None => Ok(false),
        Some(value) if value.as_bytes().trim_ascii() == b"*" => Ok(true),
        Some(_) => Err(malformed(format!("{name} may only be \"*\" here"))),
    };
    match (has(header::IF_NONE_MATCH)?, has(header::IF_MATCH)?) {
        (false, false) => Ok(Expect::Any),
        (true, false) => Ok(Expect::Absent),
        (false, true) => Ok(Expect::Present),
        (true, true) => Err(malformed("If-Match and If-None-Match contradict each other")),
    }
}

/// The flags that a path's query may have, each as `name`, `name=true` or `name=false`.
fn flags<const N: usize>(query: Option<&str>, names: [&str; N]) -> Result<[bool; N], Failure> {
    let mut flags = [false; N];
    for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, "true"));
        let flag = names.iter().position(|known| *known == name).map(|n| &mut flags[n]);
        match (flag, value) {
            (Some(flag), "true") => *flag = true,
            (Some(flag), "false") => *flag = false,
            _ => {
                let known = names.map(|name| format!("\"{name}=true\" or \"{name}=false\""));
                let message = format!("the query may be {}, not {part:?}", known.join(", "));
                return Err(invalid(message));
            }
        }
    }
    Ok(flags)
}

// === impl Route ===

impl Route {
    fn parse(path: &str) -> Result<Self, Failure> {
        let segments: Vec<&str> = path.split('/').collect();
        Ok(match segments.as_slice() {
            ["", "v1", "status"] => Self::Status,
            ["", "v1", "services"] => Self::Services,
            ["", "v1", "services", service] => Self::Service(name(service)?),
            ["", "v1", "services", service, "backends", backend] => {
                Self::Backend(id(service, backend)?)
            }
            ["", "v1", "services", service, "backends", backend, action] => {
                let id = id(service, backend)?;
                match *action {
                    "maintenance" => Self::Maintenance(id),
                    "enable" => Self::Enable(id),
                    "drain" => Self::Drain(id),
                    _ => return Err(no_path(path)),
                }
            }
            ["", "v1", "vrrp", instance, "preempt"] => {
                Self::Vrrp(VrrpCommand::Preempt(name(instance)?))
            }
            ["", "v1", "vrrp", instance, "release"] => {
                Self::Vrrp(VrrpCommand::Release(name(instance)?))
            }
            ["", "v1", "explain"] => Self::Explain,
            ["", "v1", "events"] => Self::Events,
            ["", "v1", "reload"] => Self::Reload,
            _ => return Err(no_path(path)),
        })
    }

    fn check_method(&self, method: &Method) -> Result<(), Failure> {
        let (fits, allow) = match self {
            Self::Status | Self::Services | Self::Service(_) | Self::Events => {
                (matches!(*method, Method::GET | Method::HEAD), "GET, HEAD")
            }
            Self::Backend(_) => (matches!(*method, Method::PUT | Method::DELETE), "PUT, DELETE"),
            Self::Maintenance(_)
            | Self::Enable(_)
            | Self::Drain(_)
            | Self::Vrrp(_)
            | Self::Explain
            | Self::Reload => (*method == Method::POST, "POST"),
        };
        if fits { Ok(()) } else { Err(Failure::method_not_allowed(allow)) }
    }
}

fn no_path(path: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, "no_path", format!("there is nothing at {path:?}"))
}

fn id(service: &str, backend: &str) -> Result<BackendId, Failure> {
    Ok(BackendId { service: name(service)?, backend: name(backend)? })
}

/// A name in a path. What percent-encoding stands for has to be ASCII, else it is no name anyway.
fn name(segment: &str) -> Result<Name, Failure> {
    let bad = || invalid(format!("{segment:?} in the path: a name is {NAME_RULE}"));
    let mut text = String::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit().ok_or_else(bad)?, digit().ok_or_else(bad)?);
            u8::try_from(high * 16 + low).expect("two hexadecimal digits are at most 255")
        } else {
            byte
        };
        if !byte.is_ascii() {
            return Err(bad());
        }
        text.push(char::from(byte));
    }
    Name::new(&text).map_err(|_invalid| bad())
}

const NAME_RULE: &str = "1 to 63 letters, digits, '.', '_' or '-'";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_percent_decoded_and_checked() {
        assert_eq!(name("web%2D1").map(String::from), Ok("web-1".to_owned()));
        for bad in ["", "%", "%2", "%zz", "%00", "%2F", "a%20b", "%C3%A9", "é", &"a".repeat(64)] {
            assert_eq!(name(bad).expect_err(bad).status, StatusCode::UNPROCESSABLE_ENTITY);
        }
    }
}
