//! Several processes on one store, and processes that died.

use crate::archive::{Scene, Tar, list};
use banger_images::{NoProgress, Progress, ProgressSink, Store};
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Stops the work at its first report of storing, until it is let go.
struct Pause {
    has_paused: AtomicBool,
    reached: SyncSender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl ProgressSink for Pause {
    fn report(&self, progress: Progress) {
        if progress.step == "store image" && !self.has_paused.swap(true, Ordering::SeqCst) {
            self.reached.send(()).unwrap();
            let go_on = self.go_on.lock().unwrap_or_else(PoisonError::into_inner);
            go_on.recv().unwrap_or_default();
        }
    }

    fn is_cancelled(&self) -> bool {
        false
    }
}

#[test]
fn open_sweeps_the_dead_and_spares_the_living() {
    let scene = Scene::new();
    let (data, cache) = (scene.path("data"), scene.path("cache"));
    let dead = data.join("tmp/scratch-0123456789abcdef");
    fs::create_dir(data.join("tmp/not-ours")).unwrap();
    let (reached, is_reached) = sync_channel(1);
    let (let_go, go_on) = sync_channel(1);
    let pause = Pause {
        has_paused: AtomicBool::new(false),
        reached,
        go_on: Mutex::new(go_on),
    };
    let input = scene.path("input");
    fs::write(&input, Tar::new().file("a", b"1").finish()).unwrap();
    thread::scope(|scope| {
        let import = scope.spawn(|| {
            scene
                .store
                .image_import(&input, &"test".parse().unwrap(), &pause)
                .unwrap()
        });
        // Gone with a failure here, so that the import does not wait for ever.
        let let_go = let_go;
        is_reached.recv().unwrap();
        fs::create_dir_all(dead.join("half/made")).unwrap();
        fs::create_dir(cache.join("tmp/scratch-00")).unwrap();
        assert_eq!(list(&data.join("tmp")).len(), 3);
        drop(Store::open(&data, &cache).unwrap());
        let left = list(&data.join("tmp"));
        assert_eq!(left.len(), 2, "{left:?}");
        assert!(!dead.exists() && data.join("tmp/not-ours").exists());
        assert!(list(&cache.join("tmp")).is_empty());
        let_go.send(()).unwrap();
        import.join().unwrap();
    });
    assert!(scene.store.image("test").unwrap().path().exists());
    assert_eq!(list(&data.join("tmp")), ["not-ours"]);
}

#[test]
fn i21_parallel_imports_leave_one_whole_copy() {
    let scene = Scene::new();
    let input = scene.path("input");
    fs::write(&input, Tar::new().file("a", &[3; 50_000]).finish()).unwrap();
    let (data, cache) = (scene.path("data"), scene.path("cache"));
    thread::scope(|scope| {
        for index in 0..16 {
            let (data, cache, input) = (&data, &cache, &input);
            scope.spawn(move || {
                let store = Store::open(data, cache).unwrap();
                let tag = format!("copy:{}", index % 4).parse().unwrap();
                store.image_import(input, &tag, &NoProgress).unwrap();
            });
        }
    });
    let images = scene.store.images().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].tags.len(), 4);
    scene.assert_no_scratch();
}

#[test]
fn open_makes_private_directories_and_refuses_a_newer_store() {
    use std::os::unix::fs::PermissionsExt;
    let scene = Scene::new();
    for name in ["data", "cache", "data/tmp", "data/images", "data/kernels"] {
        let mode = fs::metadata(scene.path(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
    fs::write(scene.path("data/index.json"), r#"{"version":2,"new":1}"#).unwrap();
    let error = Store::open(&scene.path("data"), &scene.path("cache")).unwrap_err();
    assert!(error.to_string().contains("version is 2"), "{error}");
    fs::write(scene.path("data/index.json"), b"\0garbage").unwrap();
    assert!(Store::open(&scene.path("data"), &scene.path("cache")).is_err());
}

#[test]
fn reading_while_others_remove_never_fails() {
    let scene = Scene::new();
    let store = &scene.store;
    let stays = scene
        .import(&Tar::new().file("stays", b"x").finish())
        .unwrap();
    let file = scene.path("goes.tar");
    fs::write(&file, Tar::new().file("goes", b"y").finish()).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let tag = "goes".parse().unwrap();
            for _ in 0..30 {
                store.image_import(&file, &tag, &NoProgress).unwrap();
                store.image_remove("goes").unwrap();
            }
            is_over.store(true, Ordering::SeqCst);
        });
        while !is_over.load(Ordering::SeqCst) {
            assert_eq!(store.image("test").unwrap().digest, stays.digest);
        }
    });
}
