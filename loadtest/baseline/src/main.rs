//! A backend on monoio-http: what the runtime's own HTTP library costs, as a yardstick beside `loadtest backend` and
//! the gateway. Never on the gateway's wire: README says why.
//!
//! `baseline LISTEN BODY_BYTES`: one thread answers every request without a body with 200 and a body of that many
//! bytes, until it is killed.

use std::process::ExitCode;

use bytes::Bytes;
use http::response::Builder;
use monoio::io::sink::SinkExt;
use monoio::io::stream::Stream;
use monoio::io::Splitable;
use monoio::net::{TcpListener, TcpStream};
use monoio_http::common::response::Response;
use monoio_http::h1::codec::decoder::RequestDecoder;
use monoio_http::h1::codec::encoder::GenericEncoder;
use monoio_http::h1::payload::{FixedPayload, Payload};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(listen), Some(Ok(body)), 2) = (args.first(), args.get(1).map(|n| n.parse()), args.len()) else {
        eprintln!("baseline LISTEN BODY_BYTES, for example: baseline 127.0.0.1:8081 128");
        return ExitCode::from(2);
    };
    let runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(4096).build();
    let served = runtime.and_then(|mut runtime| runtime.block_on(serve(listen, body)));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("baseline: {listen}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(listen: &str, body: usize) -> std::io::Result<()> {
    let body = Bytes::from(vec![b'x'; body]);
    let listener = TcpListener::bind(listen)?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(converse(stream, body.clone()));
    }
}

/// Until the client leaves or sends what the library does not take.
async fn converse(stream: TcpStream, body: Bytes) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let (reader, writer) = stream.into_split();
    let mut requests = RequestDecoder::new(reader);
    let mut responses = GenericEncoder::new(writer);
    while let Some(Ok(request)) = requests.next().await {
        if !matches!(request.into_body(), Payload::None) {
            return;
        }
        let payload = Payload::Fixed(FixedPayload::new(body.clone()));
        let Ok(response): Result<Response, _> = Builder::new().status(200).body(payload) else { return };
        if responses.send_and_flush(response).await.is_err() {
            return;
        }
    }
}
