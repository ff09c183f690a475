//! The body of a write on its way into the SDK: in the buffers it came in, never copied.
//!
//! A chunk lies in two buffers, header and payload. The SDK knows bodies in one buffer, which it hashes and signs, and
//! streams, which it would send as `UNSIGNED-PAYLOAD`. So several buffers go in as a stream of known length. The SHA-256
//! they are signed under is computed here in any case, by the fastest code there is for the processor: over `http` it is all that
//! guards a body on its way, and servers compare it with what they receive. Over TLS it may be left out
//! ([`AwsConfig::sign_payloads`](crate::AwsConfig)). The memory stays what it was, that of whoever made the body.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_lc_rs::digest::{Context as Hash, SHA256};
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::primitives::{ByteStream, SdkBody};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::Body;

/// The body as the SDK takes it, and what is signed of it: its SHA-256, or nothing.
pub(super) fn payload(body: Body, signed: bool) -> (ByteStream, PayloadSigningOverride) {
    let signing = if signed {
        let mut hash = Hash::new(&SHA256);
        body.parts().iter().for_each(|part| hash.update(part));
        PayloadSigningOverride::Precomputed(hex::encode(hash.finish()))
    } else {
        PayloadSigningOverride::UnsignedPayload
    };
    if body.parts().len() < 2 {
        return (ByteStream::from(body.into_bytes()), signing);
    }
    // Nothing is consumed by building it, so it can be built again for a second sending.
    let stream = SdkBody::retryable(move || SdkBody::from_body_1_x(Parts::new(&body)));
    (ByteStream::new(stream), signing)
}

/// Buffers, one after the other.
struct Parts {
    rest: VecDeque<Bytes>,
    left: u64,
}

impl Parts {
    fn new(body: &Body) -> Self {
        Self {
            rest: body.parts().iter().cloned().collect(),
            left: body.len(),
        }
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.rest.pop_front();
        self.left -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn hash_of(signing: PayloadSigningOverride) -> Option<String> {
        match signing {
            PayloadSigningOverride::Precomputed(hash) => Some(hash),
            _ => None,
        }
    }

    #[tokio::test]
    async fn several_buffers_keep_their_memory_and_can_be_sent_again() {
        let parts = [Bytes::from(vec![1; 44]), Bytes::from(vec![2; 1000])];
        let addresses = parts.clone().map(|part| part.as_ptr());
        let (stream, signing) = payload(parts.iter().cloned().collect(), true);
        assert_eq!(
            hash_of(signing),
            Some(hex::encode(Sha256::digest(parts.concat())))
        );
        let first = stream.into_inner();
        let second = first.try_clone().expect("it can be sent again");
        for mut body in [first, second] {
            assert_eq!(body.content_length(), Some(1044));
            for (part, address) in parts.iter().zip(addresses) {
                let frame = body.frame().await.expect("a part").expect("no error");
                let data = frame.into_data().expect("data");
                assert_eq!((data.as_ptr(), data.len()), (address, part.len()));
            }
            assert!(body.frame().await.is_none());
        }
    }

    #[test]
    fn one_buffer_is_handed_on_as_it_is() {
        for text in ["", "text"] {
            let (body, length) = (Body::from(text), text.len());
            let (stream, signing) = payload(body, true);
            assert_eq!(hash_of(signing), Some(hex::encode(Sha256::digest(text))));
            let bytes = stream.into_inner().bytes().map(<[u8]>::len);
            assert_eq!(bytes, Some(length));
        }
    }

    #[test]
    fn a_hash_may_be_left_out() {
        let (_, signing) = payload(Body::from("text"), false);
        assert!(matches!(signing, PayloadSigningOverride::UnsignedPayload));
    }
}
