//! What ingress-nginx's own end-to-end suite (`test/e2e/annotations`, commit dbb11b92) asks of annotations, said anew as
//! manifest, request, and what backend and client see: a row for each of its cases, by its file and in its order there. The
//! report in ANNOTATIONS.md is counted from these rows.
#![allow(clippy::unwrap_used, reason = "a failing helper fails its test")]

#[path = "../support/mod.rs"]
mod support;

mod heads;
mod routes;
mod rows;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use rows::ROWS;

/// What becomes of a case.
pub(crate) enum Verdict {
    /// The same facts hold: this replays them.
    Holds(fn()),
    /// The same facts hold: a test of this file of `gateway/tests` with this name shows them.
    Shown(&'static str, &'static str),
    /// Ringway does otherwise: why.
    Differs(&'static str),
    /// It is about nginx's configuration file or its modules, and asks nothing of a request: what is said instead.
    Machinery(&'static str),
}

/// A case: its file, what it asks in a few words, what becomes of it.
pub(crate) type Row = (&'static str, &'static str, Verdict);

/// How many cases each file of the suite has.
const FILES: [(&str, usize); 43] = [
    ("affinity", 15),
    ("affinitymode", 2),
    ("alias", 3),
    ("approot", 1),
    ("auth", 35),
    ("authtls", 9),
    ("backendprotocol", 6),
    ("canary", 24),
    ("clientbodybuffersize", 6),
    ("connection", 1),
    ("cors", 25),
    ("customheaders", 3),
    ("customhttperrors", 1),
    ("default_backend", 1),
    ("disableaccesslog", 3),
    ("disableproxyintercepterrors", 1),
    ("fastcgi", 4),
    ("forcesslredirect", 1),
    ("fromtowwwredirect", 2),
    ("grpc", 5),
    ("http2pushpreload", 1),
    ("ipallowlist", 1),
    ("ipdenylist", 2),
    ("limitconnections", 1),
    ("limitrate", 1),
    ("log", 2),
    ("mirror", 3),
    ("modsecurity", 12),
    ("preservetrailingslash", 1),
    ("proxy", 12),
    ("proxyssl", 5),
    ("redirect", 2),
    ("relativeredirects", 3),
    ("rewrite", 5),
    ("satisfy", 2),
    ("serversnippet", 2),
    ("serviceupstream", 3),
    ("snippet", 2),
    ("sslciphers", 2),
    ("streamsnippet", 2),
    ("upstreamhashby", 2),
    ("upstreamvhost", 1),
    ("xforwardedprefix", 2),
];

#[test]
fn every_case_has_a_row() {
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for (file, _, _) in ROWS {
        *counted.entry(file).or_default() += 1;
    }
    assert_eq!(counted, FILES.into_iter().collect());
}

/// Replays the cases whose files come in this part of the alphabet: parts run beside each other.
fn replay(part: std::ops::RangeInclusive<char>) {
    let mine = ROWS.iter().filter(|(file, _, _)| part.contains(&file.chars().next().unwrap()));
    let mut failed = Vec::new();
    for (file, what, verdict) in mine {
        if let Verdict::Holds(replay) = verdict
            && std::panic::catch_unwind(replay).is_err()
        {
            failed.push(format!("{file}: {what}"));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn sessions_aliases_and_authentication_hold() {
    replay('a'..='b');
}

#[test]
fn canaries_and_cors_hold() {
    replay('c'..='e');
}

#[test]
fn the_rest_holds() {
    replay('f'..='z');
}

#[test]
fn what_is_shown_elsewhere_is_there() {
    for (file, what, verdict) in ROWS {
        if let Verdict::Shown(test, name) = verdict {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{test}.rs"));
            let text = fs::read_to_string(&path).unwrap();
            assert!(
                text.contains(&format!("#[test]\nfn {name}()")),
                "{file}: {what}: no {name} in {test}.rs"
            );
        }
    }
}

/// Where the part of ANNOTATIONS.md begins that is counted here.
const HEADING: &str = "## ingress-nginx's end-to-end cases\n";

#[test]
fn the_report_says_what_the_rows_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ANNOTATIONS.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, found) = text.split_once(HEADING).unwrap_or((&text, ""));
    let wanted = report();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{before}{HEADING}{wanted}")).unwrap();
        return;
    }
    assert_eq!(found, wanted, "run with UPDATE_EXPECT=1");
}

fn report() -> String {
    let (mut holds, mut differs, mut machinery) = (0, 0, 0);
    let mut files: Vec<(&str, usize, usize, Vec<String>)> = Vec::new();
    for (file, what, verdict) in ROWS {
        if files.last().is_none_or(|(last, ..)| last != file) {
            files.push((file, 0, 0, Vec::new()));
        }
        let entry = files.last_mut().unwrap();
        entry.2 += 1;
        match verdict {
            Verdict::Holds(_) | Verdict::Shown(..) => {
                holds += 1;
                entry.1 += 1;
            }
            Verdict::Differs(why) => {
                differs += 1;
                entry.3.push(format!("{what}: {why}"));
            }
            Verdict::Machinery(why) => {
                machinery += 1;
                if !entry.3.iter().any(|said| said == why) {
                    entry.3.push((*why).to_owned());
                }
            }
        }
    }
    let mut out = format!(
        "\nThe cases of its suite for annotations (`test/e2e/annotations`, commit `dbb11b92`), said anew as manifest, request and \
         what backend and client see; counted from `gateway/tests/ingress_nginx` (`UPDATE_EXPECT=1`).\n\nOf {} cases {holds} hold, {differs} \
         come out otherwise, {machinery} are about nginx's own configuration.\n\n| their file | hold | the others |\n|---|---|---|\n",
        ROWS.len()
    );
    for (file, holding, all, others) in files {
        writeln!(out, "| {file} | {holding} of {all} | {} |", others.join("; ").replace('|', "\\|")).unwrap();
    }
    out
}
