//! A page on its way through: its links are written anew as it is taken, and it breaks off where it cannot be read.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body as HttpBody, Bytes, Frame};

use crate::http::body::{Body, BoxError};
use crate::proxy::index::Rewriter;

/// A page whose links are written anew as it is taken.
pub(super) struct Rewritten {
    pub(super) body: Body,
    /// Until the end, or a fault.
    pub(super) rewriter: Option<Rewriter>,
}

impl HttpBody for Rewritten {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        loop {
            let Some(rewriter) = &mut this.rewriter else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
                return Poll::Pending;
            };
            let ready = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => rewriter.feed(&piece).map_err(BoxError::from),
                    Err(_trailers) => continue,
                },
                Some(Err(error)) => Err(error),
                None => match this.rewriter.take() {
                    Some(rewriter) => rewriter.finish().map_err(BoxError::from),
                    None => return Poll::Ready(None),
                },
            };
            match ready {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Poll::Ready(Some(Ok(Frame::data(piece.into())))),
                Err(error) => {
                    this.rewriter = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rewriter.is_none()
    }
}
