//! The confined daemon of an installation and the builder beside it.

use crate::env::{TestEnv, problem, spec};
use banger_api::{
    AddImage, AddKernel, Dirs, ImportImage, ImportKernel, Problem, ProblemCode, PullKernel, RunVm,
    VmState,
};
use banger_guest::request::Exec;
use bangerd::daemon::{Limits, Role};

/// The daemon and the builder of one installation, and nothing in their store.
async fn installation() -> (TestEnv, TestEnv) {
    let root = tempfile::tempdir().unwrap();
    let own = tempfile::tempdir().unwrap();
    let system = Dirs {
        runtime: root.path().join("run"),
        state: root.path().join("state"),
        data: root.path().join("data"),
        cache: root.path().join("cache"),
        config: root.path().join("config.toml"),
    };
    let builder = Dirs {
        runtime: own.path().join("run"),
        state: own.path().join("state"),
        ..system.clone()
    };
    let mut system = TestEnv::bare(root, system, Role::System, Limits::default());
    let mut builder = TestEnv::bare(own, builder, Role::Builder, Limits::default());
    system.open().await;
    builder.open().await;
    (system, builder)
}

#[tokio::test]
async fn a_confined_daemon_asks_for_a_builder_and_sees_what_it_made() {
    let (mut system, mut builder) = installation().await;
    let refused = system.create("dev", true).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::NeedsBuilder);
    assert!(refused.message.contains("default kernel"), "{refused}");
    let run = RunVm {
        vm: spec("run"),
        exec: Exec::default(),
        workspace: None,
    };
    // Before the stream: whoever asked can have it built and ask again.
    let refused = system.client.upgrade("/v1/run", &run).await.err().unwrap();
    assert_eq!(problem(refused).code, ProblemCode::NeedsBuilder);

    builder.provide().await;
    let vm = system.create("dev", true).await.unwrap();
    assert_eq!(vm.state, VmState::Running);
    system.delete("/v1/vms/dev?force=true").await.unwrap();

    let gone = builder
        .client
        .delete::<serde_json::Value>("/v1/images/debian");
    gone.await.unwrap();
    let refused = system.create("dev", false).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::NeedsBuilder);
    assert!(refused.message.contains("default image"), "{refused}");
    system.assert_nothing_left().await;
    builder.close().await;
    system.close().await;
}

#[tokio::test]
async fn a_confined_daemon_makes_no_kernels_and_images_and_a_builder_no_vms() {
    let (mut system, mut builder) = installation().await;
    let kernels = [
        AddKernel::Pull(PullKernel::default()),
        AddKernel::Build(banger_api::BuildKernel::default()),
        AddKernel::Import(ImportKernel {
            path: "/boot/vmlinuz".into(),
            modules: None,
            name: "mine".parse().unwrap(),
        }),
    ];
    let code = |refused: Problem| assert_eq!(refused.code, ProblemCode::NeedsBuilder);
    for kernel in kernels {
        let step = system.client.steps("/v1/kernels", &kernel, |_| {}).await;
        code(problem(step.unwrap_err()));
    }
    let image = AddImage::Import(ImportImage {
        path: "/etc/hostname".into(),
        tag: "mine".parse().unwrap(),
    });
    let step = system.client.steps("/v1/images", &image, |_| {}).await;
    code(problem(step.unwrap_err()));

    builder.provide().await;
    let refused = builder.create("dev", false).await.unwrap_err();
    assert_eq!(refused.code, ProblemCode::Invalid);
    assert!(refused.message.contains("builder"), "{refused}");
    builder.close().await;
    system.close().await;
}
