//! A page that came compressed, though it was asked for as it is: some servers and proxies compress whatever they send.
//!
//! It is unpacked as it is taken, a small piece at a time, so a page that would fill the memory never does; how much of
//! it there may be in all is for whoever reads it to say. A page that is cut, or whose sum is wrong, breaks off.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use hyper::header::{CONTENT_ENCODING, HeaderMap};
use tokio::time::timeout;

use crate::error::{Failure, Kind, printable};
use crate::http::body::{Body, BoxError};

/// The page as it is. Waits for the first piece of a compressed one.
///
/// # Errors
/// When its encoding is not known here, or it is not in the one that its head says.
pub(super) async fn unpacked(headers: &HeaderMap, body: Body) -> Result<Body, Failure> {
    let values =
        headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    let encodings: Vec<String> = values
        .flat_map(|value| value.split(',').map(|one| one.trim().to_ascii_lowercase()).collect::<Vec<_>>())
        .filter(|encoding| !matches!(encoding.as_str(), "" | "identity"))
        .collect();
    let unpacker = match encodings.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => return Ok(body),
        ["gzip" | "x-gzip"] => Unpacker::Gzip(MultiGzDecoder::new(Vec::new())),
        ["deflate"] => Unpacker::Zlib(ZlibDecoder::new(Vec::new())),
        several => {
            let encoding: String = printable(&several.join(", ")).chars().take(80).collect();
            let text = format!("the page came in the encoding {encoding:?}, which was not asked for");
            return Err(Failure::new(Kind::Upstream, text));
        }
    };
    let mut page = Unpacked { body, unpacker: Some(unpacker), packed: Bytes::new() };
    page.begin().await?;
    Ok(Body::stream(page))
}

struct Unpacked {
    body: Body,
    /// Until the end, or a fault.
    unpacker: Option<Unpacker>,
    /// What has come and has not been unpacked.
    packed: Bytes,
}

enum Unpacker {
    Gzip(MultiGzDecoder<Vec<u8>>),
    Zlib(ZlibDecoder<Vec<u8>>),
}

impl Unpacked {
    /// Waits for the first bytes, and looks whether they are of a packed page at all.
    async fn begin(&mut self) -> Result<(), Failure> {
        while self.packed.len() < 2 {
            let frame = timeout(PATIENCE, self.body.frame()).await.map_err(|_| {
                let text = format!("the registry sent nothing of its page within {} s", PATIENCE.as_secs());
                Failure::new(Kind::Deadline, text)
            })?;
            match frame {
                Some(Ok(frame)) => {
                    let piece = frame.into_data().unwrap_or_default();
                    self.packed =
                        if self.packed.is_empty() { piece } else { [&*self.packed, &*piece].concat().into() };
                }
                Some(Err(error)) => {
                    let text = "the registry's page breaks off at its beginning";
                    return Err(Failure::new(Kind::Upstream, text).with_cause(error.to_string()));
                }
                None => break,
            }
        }
        let looks_packed = match (&self.unpacker, self.packed.as_ref()) {
            (Some(Unpacker::Gzip(_)), [0x1f, 0x8b, ..]) => true,
            // The method, and a sum over both bytes (RFC 1950).
            (Some(Unpacker::Zlib(_)), [first, second, ..]) => {
                first & 0x0f == 8 && u16::from_be_bytes([*first, *second]).is_multiple_of(31)
            }
            _ => false,
        };
        if looks_packed {
            return Ok(());
        }
        let text = "the page came as a compressed one, which was not asked for and which it is not";
        Err(Failure::new(Kind::Upstream, text))
    }
}

impl HttpBody for Unpacked {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let Some(unpacker) = &mut this.unpacker else { return Poll::Ready(None) };
            let mut unpacked = Ok(());
            while !this.packed.is_empty() && unpacker.ready().len() < PIECE && unpacked.is_ok() {
                unpacked = unpacker.take(&this.packed).map(|read| drop(this.packed.split_to(read)));
            }
            if unpacked.is_ok() && unpacker.ready().is_empty() {
                let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
                    return Poll::Pending;
                };
                match frame {
                    Some(Ok(frame)) => {
                        this.packed = frame.into_data().unwrap_or_default();
                        continue;
                    }
                    Some(Err(error)) => {
                        this.unpacker = None;
                        return Poll::Ready(Some(Err(error)));
                    }
                    None => unpacked = unpacker.end(),
                }
                let rest = std::mem::take(unpacker.ready());
                this.unpacker = None;
                return match unpacked {
                    Ok(()) if rest.is_empty() => Poll::Ready(None),
                    Ok(()) => Poll::Ready(Some(Ok(Frame::data(rest.into())))),
                    Err(error) => Poll::Ready(Some(Err(error.into()))),
                };
            }
            let ready = std::mem::take(unpacker.ready());
            if unpacked.is_err() {
                this.unpacker = None;
            }
            return Poll::Ready(Some(unpacked.map(|()| Frame::data(ready.into())).map_err(Into::into)));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.unpacker.is_none()
    }
}

impl Unpacker {
    /// Reads some of what has come, so that it gives at most its own small buffer at a time.
    fn take(&mut self, packed: &[u8]) -> io::Result<usize> {
        let read = match self {
            Self::Gzip(page) => page.write(packed),
            Self::Zlib(page) => page.write(packed),
        }?;
        if read == 0 { Err(io::Error::other("there is more behind the compressed page")) } else { Ok(read) }
    }

    /// The end of what comes: the page has to be at its own.
    fn end(&mut self) -> io::Result<()> {
        match self {
            Self::Gzip(page) => page.try_finish(),
            Self::Zlib(page) => page.try_finish(),
        }
    }

    /// What is unpacked and not yet taken.
    fn ready(&mut self) -> &mut Vec<u8> {
        match self {
            Self::Gzip(page) => page.get_mut(),
            Self::Zlib(page) => page.get_mut(),
        }
    }
}

/// For the first piece: as long as the merged index waits for the head.
const PATIENCE: Duration = Duration::from_secs(12);
/// Given on as one.
const PIECE: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    /// A body of these pieces.
    struct Pieces(std::collections::VecDeque<Vec<u8>>);

    impl HttpBody for Pieces {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece.into()))))
        }
    }

    fn packed_as(encoding: &str, page: &[u8]) -> Vec<u8> {
        match encoding {
            "gzip" => {
                let mut packer = GzEncoder::new(Vec::new(), Compression::best());
                packer.write_all(page).unwrap();
                packer.finish().unwrap()
            }
            "deflate" => {
                let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
                packer.write_all(page).unwrap();
                packer.finish().unwrap()
            }
            _ => page.to_vec(),
        }
    }

    async fn opened(encoding: &str, body: &[u8], size: usize) -> Result<Body, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        let pieces = body.chunks(size).map(<[u8]>::to_vec).collect();
        unpacked(&headers, Body::stream(Pieces(pieces))).await
    }

    /// The whole page, and the longest piece of it.
    async fn read(mut body: Body) -> Result<(Vec<u8>, usize), BoxError> {
        let (mut page, mut longest) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let piece = frame?.into_data().unwrap();
            longest = longest.max(piece.len());
            page.extend_from_slice(&piece);
        }
        Ok((page, longest))
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn a_page_is_the_same_however_it_is_packed_and_cut(
            page in proptest::collection::vec(any::<u8>(), 0..2000), size in 1_usize..300,
            encoding in prop_oneof![Just("gzip"), Just("deflate"), Just("identity")],
        ) {
            let read = run(async {
                read(opened(encoding, &packed_as(encoding, &page), size).await.unwrap()).await.unwrap().0
            });
            prop_assert_eq!(read, page);
        }

        #[test]
        fn any_bytes_never_panic(
            body in proptest::collection::vec(any::<u8>(), 0..200), size in 1_usize..20, at in 0_usize..200
        ) {
            let mut cracked = packed_as("gzip", &body.repeat(20));
            let at = at % cracked.len();
            cracked[at] ^= 0x55;
            for (encoding, body) in [("gzip", &cracked), ("gzip", &body), ("deflate", &body)] {
                run(async {
                    if let Ok(body) = opened(encoding, body, size).await {
                        let _ = read(body).await;
                    }
                });
            }
        }
    }

    #[test]
    fn a_page_that_would_fill_the_memory_comes_in_small_pieces() {
        let bomb = packed_as("gzip", &vec![b' '; 64 << 20]);
        assert!(bomb.len() < 100 << 10);
        let (page, longest) =
            run(async { read(opened("gzip", &bomb, usize::MAX).await.unwrap()).await.unwrap() });
        assert_eq!(page.len(), 64 << 20);
        assert!(longest <= 2 * PIECE, "{longest}");
    }

    #[test]
    fn two_packed_one_behind_the_other_are_one_page() {
        let both = [packed_as("gzip", b"one "), packed_as("gzip", b"two")].concat();
        for size in [1, 7, usize::MAX] {
            let page = run(async { read(opened("X-GZip", &both, size).await.unwrap()).await.unwrap().0 });
            assert_eq!(page, b"one two");
        }
    }

    #[test]
    fn a_page_that_is_cut_or_altered_is_not_a_whole_one() {
        let page = packed_as("gzip", b"<a href=x>".repeat(100).as_slice());
        let mut sum = page.clone();
        let place = sum.len() - 8;
        sum[place] ^= 1;
        for broken in [&page[..page.len() - 1], &page[..page.len() / 2], &page[..3], &sum] {
            let outcome = run(async { read(opened("gzip", broken, 5).await?).await.map_err(|_| cut()) });
            assert!(outcome.is_err(), "{} of {}", broken.len(), page.len());
        }
    }

    fn cut() -> Failure {
        Failure::new(Kind::Upstream, "cut")
    }

    #[test]
    fn what_is_not_known_or_not_true_is_refused_with_a_sentence() {
        let raw = {
            let mut packer = DeflateEncoder::new(Vec::new(), Compression::best());
            packer.write_all(b"x").unwrap();
            packer.finish().unwrap()
        };
        for (encoding, body, said) in [
            ("br", &b"x"[..], "the encoding \"br\""),
            ("gzip, gzip", b"x", "the encoding \"gzip, gzip\""),
            ("zstd", b"x", "which was not asked for"),
            ("gzip", b"<html></html>", "and which it is not"),
            ("gzip", b"", "and which it is not"),
            ("deflate", &raw, "and which it is not"),
        ] {
            let failure = run(opened(encoding, body, 100)).unwrap_err();
            assert!(failure.sentence().contains(said), "{encoding}: {}", failure.sentence());
        }
    }
}
