//! All cases, in one table.

use super::case::{Churn, Group, Kind, Layer, Reuse, Spec, Speech, Transport};

/// Bytes of the body where the case is not about it.
const SMALL: usize = 128;

const fn keep(connections: u32) -> Kind {
    Kind::Load { connections, reuse: Reuse::KeepAlive }
}

/// HTTP/1.1 in clear, small bodies, one rule, one worker, nothing changes; each case says what is different.
const fn plain(name: &'static str, about: &'static str, group: Group, kind: Kind) -> Spec {
    Spec {
        name,
        about,
        group,
        kind,
        body: SMALL,
        layer: Layer::Seven,
        transport: Transport::Plain,
        speech: Speech::Http1,
        backend: Speech::Http1,
        workers: 1,
        hosts: 0,
        filters: 0,
        churn: Churn::None,
    }
}

const fn sized(name: &'static str, about: &'static str, group: Group, body: usize) -> Spec {
    Spec { body, ..plain(name, about, group, keep(64)) }
}

const fn scaled(name: &'static str, connections: u32) -> Spec {
    let about = "HTTP/1.1, 128-byte bodies, by the number of connections";
    plain(name, about, Group::Connections, keep(connections))
}

const fn routed(name: &'static str, hosts: u32) -> Spec {
    let about = "HTTP/1.1, 64 connections, by the number of hosts with a rule";
    Spec { hosts, ..plain(name, about, Group::Routes, keep(64)) }
}

const fn filtered(name: &'static str, filters: u32) -> Spec {
    let about = "HTTP/1.1, 64 connections, by the number of filters of the rule";
    Spec { filters, ..plain(name, about, Group::Filters, keep(64)) }
}

const fn worked(name: &'static str, workers: u32) -> Spec {
    let about = "HTTP/1.1, 256 connections, by the number of workers, each with a core";
    Spec { workers, ..plain(name, about, Group::Workers, keep(256)) }
}

const fn bytes(name: &'static str, about: &'static str, kind: Kind, body: usize) -> Spec {
    Spec { body, layer: Layer::Four, ..plain(name, about, Group::Layer4, kind) }
}

const fn secured(name: &'static str, about: &'static str, kind: Kind) -> Spec {
    Spec { transport: Transport::Tls, ..plain(name, about, Group::Tls, kind) }
}

const fn streams(name: &'static str, about: &'static str, kind: Kind, speech: Speech, to: Speech) -> Spec {
    Spec { speech, backend: to, ..plain(name, about, Group::Http2, kind) }
}

const BODIES: &str = "HTTP/1.1, 64 connections, by the size of the body";
const EACH: Kind = Kind::Load { connections: 64, reuse: Reuse::Never };
/// 32 streams on each of two connections: as many requests at once as 64 connections of HTTP/1.1 have.
const STREAMS: Kind = Kind::Streams { connections: 2, streams: 32 };
const RATE: Kind = Kind::Open { rate: 5_000 };

/// All cases, the most telling first.
pub(crate) static CASES: [Spec; 48] = [
    plain("h1-64", "HTTP/1.1, 128-byte bodies, 64 connections", Group::Main, keep(64)),
    plain("h1-1000", "HTTP/1.1, 128-byte bodies, 1,000 connections", Group::Main, keep(1_000)),
    plain("h1-1", "HTTP/1.1, 128-byte bodies, one connection", Group::Main, keep(1)),
    sized("body-10k", "HTTP/1.1, 10,000-byte bodies, 64 connections", Group::Main, 10_000),
    sized("body-1m", "HTTP/1.1, 1 MiB bodies, 64 connections", Group::Main, 1 << 20),
    plain("new-connections", "a new client connection per request, 64 at once", Group::Main, EACH),
    plain(
        "idle-memory",
        "memory of idle keep-alive connections after one request each",
        Group::Main,
        Kind::Idle,
    ),
    bytes(
        "l4-64",
        "bytes as they are: 128-byte bodies, 64 connections; two messages a request",
        keep(64),
        SMALL,
    ),
    bytes("l4-1m", "bytes as they are: 1 MiB bodies, 64 connections", keep(64), 1 << 20),
    bytes(
        "l4-idle",
        "memory of idle relayed connections, both sides, after one request each",
        Kind::Idle,
        SMALL,
    ),
    secured("tls-h1-64", "HTTP/1.1 over TLS, 128-byte bodies, 64 connections", keep(64)),
    secured(
        "tls-handshakes",
        "a new TLS 1.3 connection per request, full P-256 handshakes, 64 at once",
        EACH,
    ),
    Spec {
        transport: Transport::Tls,
        ..streams(
            "h2-32",
            "HTTP/2 over TLS to HTTP/1.1, 128-byte bodies, 32 streams on each of 2 connections",
            STREAMS,
            Speech::Http2,
            Speech::Http1,
        )
    },
    streams(
        "h2c-32",
        "HTTP/2 in clear on both sides, 128-byte bodies, 32 streams on each of 2 connections",
        STREAMS,
        Speech::Http2,
        Speech::Http2,
    ),
    streams(
        "grpc-32",
        "unary calls of gRPC in clear, 128-byte messages, 32 streams on each of 2 connections",
        STREAMS,
        Speech::Grpc,
        Speech::Grpc,
    ),
    secured("tls-idle", "memory of idle HTTPS connections of HTTP/1.1, after one request each", Kind::Idle),
    Spec {
        speech: Speech::Http2,
        ..secured("h2-idle", "memory of idle HTTPS connections of HTTP/2, after one request each", Kind::Idle)
    },
    scaled("conns-1", 1),
    scaled("conns-8", 8),
    scaled("conns-64", 64),
    scaled("conns-512", 512),
    scaled("conns-1000", 1_000),
    scaled("conns-5000", 5_000),
    scaled("conns-10000", 10_000),
    sized("body-0", BODIES, Group::Bodies, 0),
    sized("body-100", BODIES, Group::Bodies, 100),
    sized("body-1000", BODIES, Group::Bodies, 1_000),
    sized("body-10000", BODIES, Group::Bodies, 10_000),
    sized("body-100000", BODIES, Group::Bodies, 100_000),
    sized("body-1000000", BODIES, Group::Bodies, 1_000_000),
    sized("body-10000000", BODIES, Group::Bodies, 10_000_000),
    routed("routes-10", 10),
    routed("routes-1000", 1_000),
    routed("routes-10000", 10_000),
    routed("routes-100000", 100_000),
    worked("workers-1", 1),
    worked("workers-2", 2),
    worked("workers-4", 4),
    worked("workers-8", 8),
    worked("workers-16", 16),
    worked("workers-32", 32),
    filtered("filters-0", 0),
    filtered("filters-10", 10),
    plain("churn-0", "HTTP/1.1, 64 connections, nothing changes", Group::Churn, keep(64)),
    Spec {
        churn: Churn::Endpoints(100),
        ..plain("churn-100", "the same while 100 endpoints come or go per second", Group::Churn, keep(64))
    },
    plain("open-5000", "5,000 requests per second, open loop", Group::OpenLoop, RATE),
    Spec {
        transport: Transport::Tls,
        group: Group::OpenLoop,
        ..streams(
            "open-h2-5000",
            "5,000 requests per second of HTTP/2 over TLS to HTTP/1.1, open loop, 4 connections",
            RATE,
            Speech::Http2,
            Speech::Http1,
        )
    },
    Spec {
        group: Group::OpenLoop,
        ..streams(
            "open-grpc-5000",
            "5,000 unary calls of gRPC per second, open loop, 4 connections",
            RATE,
            Speech::Grpc,
            Speech::Grpc,
        )
    },
];
