//! What is backed up: `NAME.img:FILE`, `NAME.tar:DIRECTORY`, `NAME.conf:FILE`, and how it becomes chunks.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use pbs_datastore::{AVERAGE_BYTES, ArchiveName, CHUNK_BYTES_MAX, Chunker};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::progress::Progress;
use super::tar::{ArchiveOptions, archive};
use super::upload::{Feed, IMAGE_CHUNK_BYTES};

/// Chunks that wait between the thread that reads and those that encode.
const CHUNKS_WAITING_MAX: usize = 2;
/// What is collected before the chunker sees it.
const BLOCK_BYTES: usize = 1 << 20;

/// One archive and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The name in the snapshot, with the extension of its kind.
    pub(super) archive: ArchiveName,
    pub(super) kind: SourceKind,
    pub(super) input: Input,
}

/// What the extension of the name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceKind {
    /// `.img`: a file or device, cut into chunks of 4 MiB.
    Image,
    /// `.tar`: a directory as a tar stream, cut by content.
    Tar,
    /// `.conf` and `.log`: a small file in one piece.
    Blob,
}

/// Where the data comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Path(PathBuf),
    /// `-`
    Stdin,
}

impl Source {
    /// Reads `NAME.img:PATH` and its like.
    ///
    /// # Errors
    /// A sentence that says what the argument should look like.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        let shown = text.to_string_lossy();
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|&b| b == b':');
        let (Some(colon), true) = (colon, !bytes.ends_with(b":")) else {
            return Err(format!(
                "'{shown}' is no archive: write NAME.img:FILE, NAME.tar:DIRECTORY or NAME.conf:FILE"
            ));
        };
        let name = std::str::from_utf8(&bytes[..colon])
            .map_err(|_| format!("the archive name in '{shown}' is no text"))?;
        if name == "client.log" {
            return Err(
                "the archive name 'client.log' is reserved for the log of a backup".to_owned(),
            );
        }
        let (kind, extension) = match name.rsplit_once('.') {
            Some((stem, "img")) if !stem.is_empty() => (SourceKind::Image, "fidx"),
            Some((stem, "tar")) if !stem.is_empty() => (SourceKind::Tar, "didx"),
            Some((stem, "conf" | "log")) if !stem.is_empty() => (SourceKind::Blob, "blob"),
            _ => {
                let kinds =
                    ".img for images and devices, .tar for directories, .conf for small files";
                return Err(format!("the archive name '{name}' must end in {kinds}"));
            }
        };
        let archive = format!("{name}.{extension}")
            .parse()
            .map_err(|error| format!("{error}"))?;
        let path = OsStr::from_bytes(&bytes[colon + 1..]);
        let input = if path == "-" {
            Input::Stdin
        } else {
            Input::Path(path.into())
        };
        Ok(Self {
            archive,
            kind,
            input,
        })
    }

    /// An archive of the directory `path`, called `NAME.tar`.
    pub(crate) fn directory(name: &str, path: &Path) -> Result<Self, String> {
        let mut text = OsString::from(format!("{name}:"));
        text.push(path);
        Self::parse(&text)
    }

    /// Fails for what could only fail later, when part of the backup is done.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Input::Path(path) = &self.input else {
            return Ok(());
        };
        let stat = std::fs::metadata(path).with_context(|| path.display().to_string())?;
        match self.kind {
            SourceKind::Tar if !stat.is_dir() => {
                bail!("{}: an archive NAME.tar needs a directory", path.display())
            }
            SourceKind::Image | SourceKind::Blob if stat.is_dir() => {
                bail!("{} is a directory: back it up as NAME.tar", path.display())
            }
            SourceKind::Blob if stat.len() > CHUNK_BYTES_MAX as u64 => {
                bail!(
                    "{} is larger than 16 MiB: back it up as NAME.img",
                    path.display()
                )
            }
            _ => Ok(()),
        }
    }

    /// The logical size, where it is known beforehand.
    pub(super) fn bytes(&self) -> io::Result<Option<u64>> {
        match (&self.input, self.kind) {
            (Input::Path(path), SourceKind::Image) => Ok(Some(open(path)?.seek(SeekFrom::End(0))?)),
            _ => Ok(None),
        }
    }

    /// All of a small file.
    pub(super) async fn read_small(&self) -> anyhow::Result<Bytes> {
        let input = self.input.clone();
        let read = spawn_blocking(move || {
            let mut content = Vec::new();
            input
                .open()?
                .take(CHUNK_BYTES_MAX as u64 + 1)
                .read_to_end(&mut content)?;
            Ok::<_, io::Error>(content)
        });
        let content = read
            .await?
            .with_context(|| format!("{} cannot be read", self.archive))?;
        if content.len() > CHUNK_BYTES_MAX {
            bail!(
                "{} is larger than 16 MiB: back it up as NAME.img",
                self.archive
            );
        }
        Ok(content.into())
    }

    /// Starts a thread that reads and cuts. `bytes` is the size found before, for images.
    pub(super) fn feed(
        &self,
        bytes: Option<u64>,
        options: &ArchiveOptions,
        progress: &Arc<Progress>,
    ) -> Feed {
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING_MAX);
        let (source, options, progress) = (self.clone(), options.clone(), progress.clone());
        let producer = spawn_blocking(move || {
            let chunker = match source.kind {
                SourceKind::Image => Chunker::by_size(),
                SourceKind::Tar | SourceKind::Blob => {
                    Chunker::by_content(AVERAGE_BYTES).map_err(io::Error::other)?
                }
            };
            let mut cutter = Cutter {
                chunker,
                begun: BytesMut::new(),
                sender,
                progress: progress.clone(),
            };
            match (&source.input, source.kind) {
                (Input::Path(path), SourceKind::Tar) => {
                    archive(path, &options, &mut cutter, &progress)?;
                }
                (input, _) => cutter.copy(input.open()?, bytes)?,
            }
            cutter.finish()
        });
        Feed { chunks, producer }
    }
}

impl Input {
    fn open(&self) -> io::Result<Box<dyn Read>> {
        match self {
            Self::Path(path) => Ok(Box::new(open(path)?)),
            Self::Stdin => Ok(Box::new(io::stdin())),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Cuts what is written to it and sends the chunks on; waits while too many are on their way.
struct Cutter {
    chunker: Chunker,
    /// Small writes, collected.
    begun: BytesMut,
    sender: mpsc::Sender<Bytes>,
    progress: Arc<Progress>,
}

impl Cutter {
    /// Reads `input` to its end, which must come after `expected` bytes if that is known.
    fn copy(&mut self, mut input: impl Read, expected: Option<u64>) -> io::Result<()> {
        let mut left = expected;
        loop {
            let most = left.map_or(IMAGE_CHUNK_BYTES, |left| left.min(IMAGE_CHUNK_BYTES));
            // Into a fresh buffer each time: a chunk that lies in it is not copied again.
            let mut block = Vec::with_capacity(most as usize);
            let read = input.by_ref().take(most).read_to_end(&mut block)? as u64;
            self.push(block.into())?;
            if let Some(left) = &mut left {
                *left -= read;
                if *left > 0 && read < most {
                    let text = format!("it ended {left} bytes early: it shrank while it was read");
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
                }
            }
            if read < most || left == Some(0) {
                return Ok(());
            }
        }
    }

    fn push(&mut self, mut block: Bytes) -> io::Result<()> {
        self.progress.advance(block.len() as u64);
        while let Some(chunk) = self.chunker.next_chunk(&mut block) {
            self.send(chunk)?;
        }
        Ok(())
    }

    fn send(&self, chunk: Bytes) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload has ended");
        self.sender.blocking_send(chunk).map_err(gone)
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        match std::mem::replace(&mut self.chunker, Chunker::by_size()).finish() {
            Some(chunk) => self.send(chunk),
            None => Ok(()),
        }
    }
}

impl Write for Cutter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begun.extend_from_slice(bytes);
        if self.begun.len() >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let block = std::mem::take(&mut self.begun).freeze();
        self.push(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Source, String> {
        Source::parse(OsStr::new(text))
    }

    #[test]
    fn the_extension_says_what_it_is() {
        for (text, archive, kind) in [
            ("disk.img:/dev/sda", "disk.img.fidx", SourceKind::Image),
            ("root.tar:/", "root.tar.didx", SourceKind::Tar),
            ("a.b.conf:/etc/x:y", "a.b.conf.blob", SourceKind::Blob),
            ("run.log:/tmp/l", "run.log.blob", SourceKind::Blob),
        ] {
            let source = parsed(text).unwrap();
            assert_eq!((source.archive.as_str(), source.kind), (archive, kind));
            assert_eq!(
                source.input,
                Input::Path(text.split_once(':').unwrap().1.into())
            );
        }
        assert_eq!(parsed("x.img:-").unwrap().input, Input::Stdin);
        for (text, part) in [
            ("disk.img", "NAME.img:FILE"),
            ("disk.img:", "NAME.img:FILE"),
            ("root.pxar:/", "must end in"),
            (".img:/x", "must end in"),
            ("a/b.img:/x", "a/b.img"),
            ("client.log:/x", "reserved"),
        ] {
            let fault = parsed(text).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
        }
    }

    #[test]
    fn sources_that_cannot_work_are_refused_before_anything_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let large = directory.path().join("large");
        File::create(&large)
            .unwrap()
            .set_len((16 << 20) + 1)
            .unwrap();
        let at = directory.path().display();
        for (text, part) in [
            (format!("x.tar:{at}/large"), "needs a directory"),
            (format!("x.img:{at}"), "NAME.tar"),
            (format!("x.conf:{at}"), "NAME.tar"),
            (format!("x.conf:{at}/large"), "16 MiB"),
            (format!("x.img:{at}/missing"), "missing"),
        ] {
            let fault = format!("{:#}", parsed(&text).unwrap().check().unwrap_err());
            assert!(fault.contains(part), "{text}: {fault}");
        }
        parsed(&format!("x.tar:{at}")).unwrap().check().unwrap();
    }

    async fn chunks(source: &Source, bytes: Option<u64>) -> (Vec<Bytes>, io::Result<()>) {
        let mut feed = source.feed(
            bytes,
            &ArchiveOptions::default(),
            &Arc::new(Progress::silent()),
        );
        let mut chunks = Vec::new();
        while let Some(chunk) = feed.chunks.recv().await {
            chunks.push(chunk);
        }
        (chunks, feed.producer.await.unwrap())
    }

    #[tokio::test]
    async fn images_come_in_chunks_of_4_mib_and_a_rest() {
        for size in [1usize, 4 << 20, (4 << 20) + 1, 9 << 20] {
            let file = tempfile::NamedTempFile::new().unwrap();
            let content: Vec<u8> = (0..size).map(|n| (n >> 11) as u8).collect();
            std::fs::write(file.path(), &content).unwrap();
            let source = parsed(&format!("x.img:{}", file.path().display())).unwrap();
            assert_eq!(source.bytes().unwrap(), Some(size as u64));
            let (found, result) = chunks(&source, Some(size as u64)).await;
            result.unwrap();
            assert!(
                found
                    .iter()
                    .rev()
                    .skip(1)
                    .all(|chunk| chunk.len() == 4 << 20)
            );
            assert!(found.concat() == content);
        }
    }

    #[tokio::test]
    async fn an_image_that_is_shorter_than_announced_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![1; 5 << 20]).unwrap();
        let source = parsed(&format!("x.img:{}", file.path().display())).unwrap();
        let (_, result) = chunks(&source, Some(9 << 20)).await;
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_directory_comes_as_the_tar_stream_cut_by_content() {
        let directory = tempfile::tempdir().unwrap();
        let mut state = 1u32;
        let noise: Vec<u8> = (0..20 << 20)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        std::fs::write(directory.path().join("noise"), noise).unwrap();
        let source = Source::directory("root.tar", directory.path()).unwrap();
        let (found, result) = chunks(&source, None).await;
        result.unwrap();
        assert!(found.len() >= 2, "{} chunks", found.len());
        let mut stream = Vec::new();
        archive(
            directory.path(),
            &ArchiveOptions::default(),
            &mut stream,
            &Progress::silent(),
        )
        .unwrap();
        assert!(found.concat() == stream);
    }
}
