//! Plans: what is decided, and what is refused.

use super::*;

const FACTS: HostFacts = HostFacts {
    memory: ByteSize::gib(8),
    disk_free: ByteSize::gib(50),
    reserve: RESERVE,
    has_helper: false,
    network: NetworkMode::User,
};

const IMAGE_SIZE: ByteSize = ByteSize::mib(400);

fn image() -> ImageFacts {
    ImageFacts {
        digest: Digest::from_sha256([1; 32]),
        size: IMAGE_SIZE,
    }
}

fn try_draft(spec: &VmSpec) -> Result<VmDraft, PlanError> {
    draft(spec, &Config::default(), &FACTS, false)
}

#[test]
fn what_is_left_out_comes_from_the_configuration() {
    let plan = try_draft(&VmSpec::default())
        .unwrap()
        .resolve(
            &VmId::from_bits(0x1234_abcd),
            image(),
            "k".parse().unwrap(),
            Digest::from_sha256([2; 32]),
        )
        .unwrap();
    assert_eq!(plan.name.as_str(), "box-1234abcd");
    assert_eq!(plan.image, "debian");
    assert_eq!(plan.memory, ByteSize::gib(1));
    assert_eq!(plan.storage, StorageMode::Overlay);
    assert_eq!((plan.disk, plan.root_size), (ByteSize::gib(16), None));
}

#[test]
fn a_snapshot_is_as_large_as_its_image_and_needs_the_helper() {
    let with_helper = HostFacts {
        has_helper: true,
        ..FACTS
    };
    let of = |facts: &HostFacts, disk: Option<ByteSize>| {
        let spec = VmSpec {
            storage: Some(StorageMode::Snapshot),
            disk,
            ..VmSpec::default()
        };
        let (id, kernel) = (VmId::from_bits(1), "k".parse().unwrap());
        let digest = Digest::from_sha256([2; 32]);
        draft(&spec, &Config::default(), facts, false)?.resolve(&id, image(), kernel, digest)
    };
    assert_eq!(of(&FACTS, None), Err(PlanError::NoSnapshots));
    let whole = of(&with_helper, None).unwrap();
    assert_eq!(
        (whole.disk, whole.root_size),
        (IMAGE_SIZE, Some(IMAGE_SIZE))
    );
    let half = of(&with_helper, Some(ByteSize::mib(200))).unwrap();
    assert_eq!(
        (half.disk, half.root_size),
        (ByteSize::mib(200), Some(IMAGE_SIZE))
    );
    let error = of(&with_helper, Some(ByteSize::mib(401))).unwrap_err();
    assert!(matches!(error, PlanError::SnapshotDisk { .. }), "{error}");
    assert!(error.hint().unwrap().contains("overlay"));
}

#[test]
fn a_plan_of_before_there_were_snapshots_is_an_overlay() {
    let plan = try_draft(&VmSpec::default()).unwrap();
    let (id, kernel) = (VmId::from_bits(1), "k".parse().unwrap());
    let plan = plan.resolve(&id, image(), kernel, Digest::from_sha256([2; 32]));
    let mut old = serde_json::to_value(plan.unwrap()).unwrap();
    let fields = old.as_object_mut().unwrap();
    assert!(fields.remove("storage").is_some() && fields.remove("root_size").is_some());
    let plan: VmPlan = serde_json::from_value(old).unwrap();
    assert_eq!((plan.storage, plan.root_size), (StorageMode::Overlay, None));
}

#[test]
fn draft_refuses_what_is_out_of_range() {
    let base = VmSpec::default();
    let bad = [
        VmSpec {
            cpus: Some(0),
            ..base.clone()
        },
        VmSpec {
            cpus: Some(33),
            ..base.clone()
        },
        VmSpec {
            memory: Some(ByteSize::mib(127)),
            ..base.clone()
        },
        VmSpec {
            memory: Some(ByteSize::gib(9)),
            ..base.clone()
        },
        VmSpec {
            memory: Some(ByteSize(u64::MAX)),
            ..base.clone()
        },
        VmSpec {
            disk: Some(ByteSize::mib(63)),
            ..base.clone()
        },
        VmSpec {
            disk: Some(ByteSize(u64::MAX)),
            ..base.clone()
        },
        VmSpec {
            image: Some(String::new()),
            ..base.clone()
        },
        VmSpec {
            image: Some("a\u{1b}[31m".into()),
            ..base.clone()
        },
        VmSpec {
            kernel: Some("x".repeat(201)),
            ..base.clone()
        },
        VmSpec {
            labels: BTreeMap::from([("a b".into(), String::new())]),
            ..base.clone()
        },
        VmSpec {
            labels: BTreeMap::from([("a".into(), "\n".into())]),
            ..base.clone()
        },
        VmSpec {
            labels: (0..20)
                .map(|n| (format!("k{n}"), "v".repeat(250)))
                .collect(),
            ..base.clone()
        },
        VmSpec {
            labels: (0..65).map(|n| (format!("k{n}"), String::new())).collect(),
            ..base.clone()
        },
    ];
    for spec in bad {
        assert!(try_draft(&spec).is_err(), "{spec:?}");
    }
}

#[test]
fn the_network_is_what_was_asked_for_or_the_best_there_is() {
    let with_helper = HostFacts {
        has_helper: true,
        network: NetworkMode::Nat,
        ..FACTS
    };
    let of = |facts: &HostFacts, asked, configured| {
        let spec = VmSpec {
            network: asked,
            ..VmSpec::default()
        };
        let mut config = Config::default();
        config.vm.network = configured;
        draft(&spec, &config, facts, false).map(|draft| draft.network)
    };
    let (nat, user, none) = (NetworkMode::Nat, NetworkMode::User, NetworkMode::None);
    assert_eq!(of(&FACTS, None, None), Ok(user));
    assert_eq!(of(&with_helper, None, None), Ok(nat));
    assert_eq!(of(&with_helper, None, Some(none)), Ok(none));
    assert_eq!(of(&with_helper, Some(user), Some(none)), Ok(user));
    assert_eq!(of(&FACTS, Some(nat), None), Err(PlanError::NoHelper));
}

#[test]
fn draft_refuses_a_nearly_full_disk() {
    let facts = HostFacts {
        disk_free: ByteSize::mib(1023),
        ..FACTS
    };
    let error = draft(&VmSpec::default(), &Config::default(), &facts, true).unwrap_err();
    assert!(matches!(error, PlanError::NoSpace { .. }));
    assert!(error.hint().is_some());
}
