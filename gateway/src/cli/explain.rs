//! `ringway explain METHOD URL`: where a request would go, and why nowhere else.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use gateway::admin::explain::{self, Answer, BackendAnswer, ClusterAnswer, Question, Verdict};
use gateway::admin::replay::table_of;
use gateway::worker::clock;
use gateway::worker::settings::Settings;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use routing::delta::RouteTable;
use routing::table::Table;

use super::check::{OfflineArgs, existing, listeners};
use super::client::{self, AdminUrl};
use super::run;
use super::table::{self, Align};

/// The request, and whose table is asked.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
The request is decoded as a listener would decode it and the very table is asked; nothing is sent. Shares are what
a first attempt would get with every endpoint healthy: what a worker has learned since is its own.

Exit status: 0 when a rule serves the request, 1 when none does or the question is wrong.

Examples:
  ringway explain GET http://shop.example/cart --manifests config/examples/header-routing
  ringway explain GET http://shop.example/ -H 'x-cluster: beta'
  ringway explain POST http://shop.example/orders --source 10.9.0.1 --admin http://127.0.0.1:9901")]
pub struct ExplainArgs {
    /// The method, as it would be sent.
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// `http://HOST[:PORT]/PATH[?QUERY]`
    #[arg(value_name = "URL")]
    pub url: String,
    /// A header line of the request; may be given several times. Host replaces the URL's.
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// The client's address.
    #[arg(long, value_name = "ADDRESS", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    pub source: IpAddr,
    /// Ask the table that this directory compiles to.
    #[arg(long, value_name = "DIR", conflicts_with = "admin")]
    pub manifests: Option<PathBuf>,
    /// Ask a running node: its admin API.
    #[arg(long, value_name = "URL", default_value_t)]
    pub admin: AdminUrl,
    #[command(flatten)]
    pub offline: OfflineArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected 'name: value'")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Asks and prints.
pub fn main(args: &ExplainArgs) -> Result<ExitCode, String> {
    let question = Question {
        method: args.method.clone(),
        url: args.url.clone(),
        headers: args.headers.clone(),
        source: args.source,
    };
    let answer = match &args.manifests {
        Some(dir) => offline(dir, &args.offline, &question)?,
        None => client::get(args.admin, &path(&question))?,
    };
    table::print(&render(&question, &answer))?;
    Ok(if answer.rule.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Compiles a directory and asks the table of a worker that runs it.
fn offline(dir: &Path, args: &OfflineArgs, question: &Question) -> Result<Answer, String> {
    let config = args.load()?;
    let (compiled, report) =
        controller::compile_dir(existing(dir)?, &listeners(&config), &run::defaults(&config));
    if report.refused() {
        eprintln!("ringway: some objects are refused; `ringway check {}` says why", dir.display());
    }
    let worker = worker_table(&compiled, &config)?;
    explain::answer(&worker, &Settings::new(&config).head, question, clock::now())
}

/// The table of a worker that runs what was compiled.
pub(super) fn worker_table(compiled: &RouteTable, config: &config::Config) -> Result<Table, String> {
    table_of(compiled, &config.node, clock::now())
        .map_err(|out| format!("the table could not be built: {out:?}"))
}

fn path(question: &Question) -> String {
    let coded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let mut path = format!(
        "/api/v1/explain?method={}&url={}&source={}",
        coded(&question.method),
        coded(&question.url),
        coded(&question.source.to_string())
    );
    for (name, value) in &question.headers {
        path.push_str(&format!("&header={}", coded(&format!("{name}: {value}"))));
    }
    path
}

// ---------------------------------------------------------------- for people

fn render(question: &Question, answer: &Answer) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, question, answer);
    out
}

fn write(out: &mut String, question: &Question, answer: &Answer) -> std::fmt::Result {
    writeln!(out, "{} {}", question.method, question.url)?;
    let listeners = if answer.listeners.is_empty() { "none".to_owned() } else { answer.listeners.join(", ") };
    writeln!(out, "  matched as  host {}, path {}", answer.host, answer.path)?;
    writeln!(out, "  listener    {listeners} on {}", answer.bind)?;
    if let Some(remark) = &answer.remark {
        writeln!(out, "              ({remark})")?;
    }
    match (&answer.rule, &answer.no_rule) {
        (Some(rule), _) => {
            writeln!(out, "  rule        {} rules[{}]: {}", rule.route, rule.rule, rule.matches)?;
            writeln!(out, "  action      {}", rule.action)?;
        }
        (None, reason) => {
            let reason = reason.as_deref().unwrap_or("unknown");
            writeln!(out, "  rule        none: {reason}; the answer is 404")?;
        }
    }
    if let Some(pin) = &answer.pin {
        writeln!(out, "  pinned to   {} ({})", pin.cluster, pin.mode)?;
    }
    for backend in &answer.backends {
        write_backend(out, backend)?;
    }
    if answer.rules.len() > 1 || answer.rule.is_none() && !answer.rules.is_empty() {
        writeln!(out, "\nRules in order:")?;
        let rows = answer
            .rules
            .iter()
            .map(|rule| [format!("{} rules[{}]", rule.route, rule.rule), said(rule.verdict, &rule.reason)]);
        out.push_str(&table::render("  ", [Align::Left; 2], &rows.collect::<Vec<_>>()));
    }
    if answer.rules_left_out > 0 {
        writeln!(out, "  … and {} more", answer.rules_left_out)?;
    }
    Ok(())
}

fn write_backend(out: &mut String, backend: &BackendAnswer) -> std::fmt::Result {
    let name = if backend.name.is_empty() { "(unresolved)" } else { &backend.name };
    writeln!(
        out,
        "\nBackend {name}, weight {}, {:.1} % of the rule: {}",
        backend.weight,
        backend.percent,
        said(backend.verdict, &backend.reason)
    )?;
    let title =
        ["CLUSTER", "SHARE", "PRIORITY", "WEIGHT", "READY", "TERMINATING", "OUT", "DETECTOR", "VERDICT"];
    let mut rows = vec![title.map(str::to_owned)];
    for cluster in &backend.clusters {
        rows.push([
            cluster.name.clone(),
            format!("{:.1} %", cluster.percent),
            cluster.priority.to_string(),
            cluster.weight.map_or("by pods".to_owned(), |weight| weight.to_string()),
            cluster.ready.to_string(),
            cluster.terminating.to_string(),
            cluster.out.to_string(),
            detector(cluster),
            said(cluster.verdict, &cluster.reason),
        ]);
    }
    let mut align = [Align::Right; 9];
    (align[0], align[7], align[8]) = (Align::Left, Align::Left, Align::Left);
    out.push_str(&table::render("  ", align, &rows));
    let mut rows = vec![["ENDPOINT", "CLUSTER", "VERDICT"].map(str::to_owned)];
    for cluster in &backend.clusters {
        for endpoint in &cluster.endpoints {
            let said = said(endpoint.verdict, &endpoint.reason);
            rows.push([endpoint.addr.clone(), cluster.name.clone(), said]);
        }
        if cluster.endpoints_left_out > 0 {
            let more = format!("… and {} more", cluster.endpoints_left_out);
            rows.push([more, cluster.name.clone(), String::new()]);
        }
    }
    if rows.len() > 1 {
        out.push_str(&table::render("  ", [Align::Left; 3], &rows));
    }
    Ok(())
}

/// What the failure detector says: of the cluster, and of the backend there where that is something else.
fn detector(cluster: &ClusterAnswer) -> String {
    let (whole, part) = (cluster.cluster_state.as_str(), cluster.backend_state.as_str());
    match (whole, part) {
        ("healthy", part) if part != "healthy" => format!("backend {part}"),
        (whole, part) if whole == part || part == "healthy" => whole.to_owned(),
        (whole, part) => format!("{whole}, backend {part}"),
    }
}

fn said(verdict: Verdict, reason: &str) -> String {
    match verdict {
        Verdict::Chosen => "chosen".to_owned(),
        Verdict::Lost => format!("lost: {reason}"),
    }
}
