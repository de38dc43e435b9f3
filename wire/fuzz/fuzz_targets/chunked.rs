//! Any bytes as a chunked body: no panic, in bounds, and the same data however it is split. The first byte chooses
//! the length of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::body::{BodyDecoder, Progress, TrailerPolicy};
use wire::error::WireError;
use wire::head::BodyLength;

fuzz_target!(|input: &[u8]| {
    let Some((first, bytes)) = input.split_first() else { return };
    let whole = read(bytes, usize::MAX);
    let split = read(bytes, usize::from(*first).max(1));
    match (whole, split) {
        (Ok(whole), Ok(split)) => assert_eq!(whole, split),
        (whole, split) => assert_eq!(whole.is_err(), split.is_err()),
    }
});

/// Data, trailers and the number of bytes used, of a body given in pieces of this length.
fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, Vec<u8>, usize), WireError> {
    let mut body = BodyDecoder::new(BodyLength::Chunked, TrailerPolicy::Forward);
    let (mut data, mut used) = (Vec::new(), 0);
    for piece in bytes.chunks(piece.min(bytes.len()).max(1)) {
        let mut buf = piece.to_vec();
        let step = body.step(&mut buf)?;
        assert!(step.data <= step.consumed && step.consumed <= buf.len());
        assert_eq!(buf[step.consumed..], piece[step.consumed..]);
        data.extend_from_slice(&buf[..step.data]);
        used += step.consumed;
        match step.progress {
            Progress::Done => break,
            Progress::More => assert_eq!(step.consumed, buf.len()),
        }
    }
    assert_eq!(body.is_done(), body.finish_on_close().is_ok());
    Ok((data, body.trailers().to_vec(), used))
}
