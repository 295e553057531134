//! Tests of `source`.

use super::*;

/// An apt directory with these files and a keyring.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("sources.list.d")).unwrap();
    let keyring = dir.path().join("keys.gpg");
    fs::write(&keyring, b"keys").unwrap();
    for (name, text) in files {
        let text = text.replace("KEYRING", keyring.to_str().unwrap());
        fs::write(dir.path().join(name), text).unwrap();
    }
    (dir, keyring)
}

#[test]
fn reads_deb822_sources() {
    let (dir, keyring) = host(&[(
        "sources.list.d/debian.sources",
        "Types: deb deb-src\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm\n bookworm-updates\n\
         Components: main contrib\nSigned-By: KEYRING\n\n\
         Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\nSigned-By: KEYRING\n",
    )]);
    let source = DebianSource::detect_in(dir.path(), None, "bookworm").unwrap();
    assert_eq!(
        source.to_deb822(),
        format!(
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: {0}\n\n\
             Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\nSigned-By: {0}\n",
            keyring.display()
        )
    );
}

#[test]
fn reads_one_line_sources() {
    let (dir, _keyring) = host(&[(
        "sources.list",
        "# deb http://old.example/debian bookworm main\n\
         deb-src http://mirror.example/src bookworm main\n\
         deb [arch=amd64 signed-by=KEYRING] https://mirror.example/debian/ bookworm main non-free\n",
    )]);
    let source = DebianSource::detect_in(dir.path(), None, "trixie").unwrap();
    assert_eq!(
        source.archives,
        [Archive {
            uri: "https://mirror.example/debian/".into(),
            suites: vec!["trixie".into()],
        }]
    );
}

#[test]
fn passes_over_third_parties_and_disabled_entries() {
    let (dir, _keyring) = host(&[
        (
            "sources.list.d/a.list",
            "deb https://vendor.example/apt nodistro main\ndeb https://vendor.example/apt bookworm stable\n",
        ),
        (
            "sources.list.d/b.sources",
            "Types: deb\nEnabled: no\nURIs: http://off.example/debian\nSuites: bookworm\nComponents: main\n",
        ),
        (
            "sources.list.d/c.sources.save",
            "Types: deb\nURIs: http://save.example/debian\nSuites: bookworm\nComponents: main\n",
        ),
        (
            "sources.list.d/d.list",
            "deb cdrom:[Debian]/ bookworm main\n",
        ),
    ]);
    let error = DebianSource::detect_in(dir.path(), None, "bookworm").unwrap_err();
    assert!(matches!(error, ImagesError::NoSource { .. }), "{error}");
    assert!(error.hint().unwrap().contains("--mirror"), "{error}");
}

#[test]
fn mirror_refuses_what_could_add_lines_or_options() {
    let (dir, keyring) = host(&[]);
    for bad in [
        "",
        "ftp://x/debian",
        "cdrom:/x",
        "http://",
        "http://x y",
        "http://x\nTypes: deb-src",
        "http://x [trusted=yes]",
        "http://x/[trusted=yes]",
        "http://x\"",
        "http://x\u{1b}[31m",
        "mirror+file:/etc/x",
        "copy:/etc",
        "-o",
    ] {
        let error = DebianSource::detect_in(dir.path(), Some(bad), "bookworm").unwrap_err();
        assert!(error.to_string().contains("mirror"), "{bad:?}: {error}");
    }
    for good in [
        "http://x/debian",
        "https://user@x:8080/a%20b/",
        "file:/srv/mirror",
    ] {
        mirror_archive(good, "bookworm").unwrap();
    }
    assert!(keyring.exists());
}

#[test]
fn suite_refuses_what_could_add_lines_or_options() {
    let (dir, _keyring) = host(&[]);
    for bad in ["", "a b", "bookworm\n", "../x", "-x", "Bookworm", "a/b"] {
        assert!(
            DebianSource::detect_in(dir.path(), Some("http://x"), bad).is_err(),
            "{bad:?}"
        );
    }
}

#[test]
fn keyring_must_be_there() {
    let source = DebianSource {
        suite: "bookworm".into(),
        keyring: PathBuf::new(),
        archives: vec![mirror_archive("http://x/debian", "bookworm").unwrap()],
    };
    for bad in ["/nonexistent", "relative", "/tmp/a b", "/tmp/a\nb"] {
        let error = source.clone().with_keyring(Path::new(bad)).unwrap_err();
        assert!(error.to_string().contains("keyring"), "{error}");
    }
}
