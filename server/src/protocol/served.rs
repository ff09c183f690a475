//! The calls of one session, whichever protocol it speaks: each request counts as a sign of life, is answered, and leaves a
//! line in the session's log when it is refused.

use http::{Request, Response};
use hyper::body::Incoming;

use super::answer::AnswerBody;
use super::backup::BackupSession;
use super::reader::ReaderSession;
use super::session::Progress;
use crate::tasks::TaskLogger;

/// What answers the calls.
#[derive(Debug)]
pub(super) enum Calls {
    Backup(BackupSession),
    Reader(ReaderSession),
}

/// One session, as its client sees it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) calls: Calls,
    pub(super) progress: Progress,
    pub(super) log: TaskLogger,
}

impl Served {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<AnswerBody> {
        let _open = self.progress.request();
        let what = format!("{} {}", request.method(), request.uri().path());
        let result = match &self.calls {
            Calls::Backup(session) => session.call(request).await,
            Calls::Reader(session) => session.call(request).await,
        };
        result.unwrap_or_else(|refusal| {
            let status = refusal.status().as_u16();
            self.log.log(format_args!("{what}: {status}: {refusal}"));
            refusal.into_response()
        })
    }
}
