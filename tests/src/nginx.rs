//! nginx, one for each backend.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{Namespace, Process};

/// Its health page says 503 while this file exists in its directory.
const UNHEALTHY: &str = "unhealthy";
const ACCESS_LOG: &str = "access.log";
const START_LIMIT: Duration = Duration::from_secs(10);

/// Writes the configuration; to be called once for each backend.
pub(crate) fn configure(namespace: &Namespace) -> Result<()> {
    let path = configuration(namespace);
    let text = text(namespace.role(), namespace.directory());
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// Starts nginx and returns when it accepts connections.
pub(crate) fn start(namespace: &Namespace) -> Result<Process> {
    let configuration = configuration(namespace).display().to_string();
    let words = ["nginx", "-e", "stderr", "-c", &configuration];
    let mut nginx = namespace.spawn("nginx", &words)?;
    namespace.enter(|| {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
        nginx.wait_until(START_LIMIT, || {
            TcpStream::connect_timeout(&server, START_LIMIT)?;
            Ok(())
        })
    })??;
    Ok(nginx)
}

/// Makes the health page say 200 or 503.
pub(crate) fn set_healthy(namespace: &Namespace, healthy: bool) -> Result<()> {
    let path = namespace.directory().join(UNHEALTHY);
    let done = if healthy { fs::remove_file(&path) } else { fs::write(&path, "") };
    match done {
        Err(error) if healthy && error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.with_context(|| format!("change {}", path.display())),
    }
}

/// All its requests so far, one a line.
pub(crate) fn access_log(namespace: &Namespace) -> Result<String> {
    let path = namespace.directory().join(ACCESS_LOG);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn configuration(namespace: &Namespace) -> PathBuf {
    namespace.directory().join("nginx.conf")
}

/// One process, without a master: when it has been waited for, its sockets are closed.
fn text(name: &str, directory: &Path) -> String {
    let directory = directory.display();
    format!(
        r#"daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;

events {{
    worker_connections 16384;
}}

http {{
    log_format short '$remote_addr:$remote_port "$request" $status';
    access_log {directory}/{ACCESS_LOG} short;
    default_type text/plain;
    keepalive_timeout 1h;
    keepalive_requests 1000000;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;

    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;

        location / {{
            return 200 "{name}";
        }}
        location = /large {{
            alias {directory}/large;
        }}
        location = /health {{
            if (-f {directory}/{UNHEALTHY}) {{
                return 503 "unhealthy";
            }}
            return 200 "ok";
        }}
    }}
}}
"#
    )
}
