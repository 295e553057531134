//! Tar archives as attackers write them, and a store to feed them to.

use banger_images::{Image, ImagesError, Limits, NoProgress, Store};
use std::fs;
use std::path::{Path, PathBuf};

/// A tar archive being written, without any check.
#[derive(Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an entry of the given type, with a content and a link target.
    pub(crate) fn add(self, kind: u8, name: &[u8], content: &[u8], link: &[u8]) -> Self {
        self.add_with(kind, name, content, link, |_| {})
    }

    /// The same, with changes to the header before its checksum is made.
    pub(crate) fn add_with(
        mut self,
        kind: u8,
        name: &[u8],
        content: &[u8],
        link: &[u8],
        edit: impl FnOnce(&mut [u8; 512]),
    ) -> Self {
        for (long, kind) in [(name, b'L'), (link, b'K')] {
            if long.len() > 100 {
                self = self.add(kind, b"././@LongLink", &[long, b"\0"].concat(), b"");
            }
        }
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &name[..name.len().min(100)]);
        put(
            100,
            if kind == b'5' {
                b"0000755\0"
            } else {
                b"0000644\0"
            },
        );
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(156, &[kind]);
        put(157, &link[..link.len().min(100)]);
        put(257, b"ustar  \0");
        edit(&mut header);
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(header);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(b'0', name.as_bytes(), content, b"")
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.add(b'5', name.as_bytes(), b"", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.add(b'2', name.as_bytes(), b"", target.as_bytes())
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.add(b'1', name.as_bytes(), b"", target.as_bytes())
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            content.extend(format!("{length} {key}=").as_bytes());
            content.extend(*value);
            content.push(b'\n');
        }
        self.add(b'x', b"PaxHeaders/x", &content, b"")
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }

    /// What there is so far, without an end.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A store in a temporary directory.
pub(crate) struct Scene {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with_limits(|_| {})
    }

    pub(crate) fn with_limits(edit: impl FnOnce(&mut Limits)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut limits = Limits::default();
        edit(&mut limits);
        let store = Store::open_with_limits(
            &directory.path().join("data"),
            &directory.path().join("cache"),
            limits,
        )
        .unwrap();
        Self { directory, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn import(&self, bytes: &[u8]) -> Result<Image, ImagesError> {
        let file = self.path("input");
        fs::write(&file, bytes).unwrap();
        let result = self
            .store
            .image_import(&file, &"test".parse().unwrap(), &NoProgress);
        self.assert_no_scratch();
        result
    }

    /// Imports what must be refused with `reason`, and leave nothing.
    pub(crate) fn refuse(&self, bytes: &[u8], reason: &str) {
        let error = self.import(bytes).unwrap_err().to_string();
        assert!(error.contains(reason), "{error:?} does not say {reason:?}");
        assert!(!error.contains('\u{1b}'), "{error:?}");
        self.assert_no_images();
    }

    pub(crate) fn assert_no_scratch(&self) {
        for directory in ["data/tmp", "cache/tmp"] {
            assert_eq!(
                list(&self.path(directory)),
                Vec::<String>::new(),
                "{directory}"
            );
        }
    }

    pub(crate) fn assert_no_images(&self) {
        assert_eq!(list(&self.path("data/images")), Vec::<String>::new());
        assert!(self.store.images().unwrap().is_empty());
    }
}

/// The names in a directory.
pub(crate) fn list(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What `debugfs -R COMMAND` says of an image.
pub(crate) fn debugfs(image: &Path, command: &str) -> String {
    let output = std::process::Command::new("debugfs")
        .args(["-R", command])
        .arg(image)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails unless e2fsck finds an image flawless.
pub(crate) fn assert_clean(image: &Path) {
    let output = std::process::Command::new("e2fsck")
        .arg("-fn")
        .arg(image)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
}
