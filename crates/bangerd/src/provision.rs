//! Sees to it that a VM's kernel and image are there: the configured defaults are made on
//! demand, everything else must exist.

use crate::daemon::{Daemon, Role};
use crate::problem::Refusal;
use crate::shared_job::JobSink;
use crate::vm::plan::VmDraft;
use banger_api::{BuildImage, BuildKernel, Config, ProblemCode, Progress, PullKernel};
use banger_images::{
    BuildOptions, DebianSource, Image, ImagesError, Kernel, KernelBuildOptions, Store,
};
use banger_names::Tag;
use std::sync::Arc;

/// Whom progress is told to.
pub(crate) type Report = Arc<dyn Fn(Progress) + Send + Sync>;

/// The image that can be built when it is the default and missing, and its recipe.
const DEBIAN: &str = "debian";

/// Fails where a daemon is confined: what makes kernels and images needs package tools, temporary
/// space and the network, all of which the sandbox keeps away.
pub(crate) fn may_provision(daemon: &Daemon) -> Result<(), Refusal> {
    if daemon.role() == Role::System {
        return Err(needs_builder(
            "make kernels and images",
            "banger kernel pull",
        ));
    }
    Ok(())
}

/// Fails at once where kernel or image are missing and this daemon cannot make them.
pub(crate) async fn require(daemon: &Daemon, draft: &VmDraft) -> Result<(), Refusal> {
    if daemon.role() != Role::System {
        return Ok(());
    }
    if draft.kernel.is_none() && look_up_kernel(daemon, draft).await?.is_none() {
        let what = "make the default kernel, which is missing";
        return Err(needs_builder(what, "banger kernel pull"));
    }
    match look_up_image(daemon, draft).await {
        Err(ImagesError::NotFound { .. }) if is_default_image(daemon, draft).await? => {
            let what = "make the default image, which is missing";
            Err(needs_builder(what, "banger image build debian"))
        }
        _ => Ok(()),
    }
}

fn needs_builder(what: &str, hint: &str) -> Refusal {
    Refusal::new(
        ProblemCode::NeedsBuilder,
        format!("{what}: the system's daemon is confined; a builder does it"),
    )
    .hint(hint)
}

/// Whether the draft's image is the default that can be made on demand.
async fn is_default_image(daemon: &Daemon, draft: &VmDraft) -> Result<bool, Refusal> {
    Ok(draft.image == DEBIAN && daemon.config().await?.vm.image == DEBIAN)
}

/// Waits until kernel and image are there, making the defaults if they are missing.
pub(crate) async fn provide(
    daemon: &Arc<Daemon>,
    draft: &VmDraft,
    report: &Report,
) -> Result<(), Refusal> {
    let config = daemon.config().await?;
    if draft.kernel.is_none() && look_up_kernel(daemon, draft).await?.is_none() {
        pull_kernel(daemon, PullKernel::default(), &config, report).await?;
    }
    match look_up_image(daemon, draft).await {
        Ok(_) => Ok(()),
        Err(ImagesError::NotFound { .. }) if is_default_image(daemon, draft).await? => {
            let recipe = BuildImage {
                recipe: DEBIAN.into(),
                tag: None,
                suite: None,
                mirror: None,
                packages: Vec::new(),
            };
            build_image(daemon, recipe, &config, report).await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The kernel and image that `draft` means; `None` if a default one is not there.
pub(crate) async fn look_up(
    daemon: &Daemon,
    draft: &VmDraft,
) -> Result<Option<(Kernel, Image)>, Refusal> {
    let Some(kernel) = look_up_kernel(daemon, draft).await? else {
        return Ok(None);
    };
    Ok(Some((kernel, look_up_image(daemon, draft).await?)))
}

async fn look_up_kernel(daemon: &Daemon, draft: &VmDraft) -> Result<Option<Kernel>, Refusal> {
    let wanted = draft.kernel.clone();
    let found = daemon
        .with_images(move |images| match wanted {
            Some(wanted) => images.kernel(&wanted).map(Some),
            None => match images.kernel_default()? {
                Some(name) => images.kernel(name.as_str()).map(Some),
                None => Ok(None),
            },
        })
        .await?;
    Ok(found)
}

async fn look_up_image(daemon: &Daemon, draft: &VmDraft) -> Result<Image, ImagesError> {
    let wanted = draft.image.clone();
    daemon
        .with_images(move |images| images.image(&wanted))
        .await
}

/// Gets Debian's kernel; callers that ask for the same wait for one download.
pub(crate) async fn pull_kernel(
    daemon: &Daemon,
    asked: PullKernel,
    config: &Config,
    report: &Report,
) -> Result<Kernel, Refusal> {
    may_provision(daemon)?;
    let mirror = asked.mirror.or_else(|| config.debian.mirror.clone());
    let suite = asked.suite.unwrap_or_else(|| config.debian.suite.clone());
    let images = daemon.images().clone();
    let key = format!("pull the kernel of {suite:?} from {mirror:?}");
    let work = move |sink: &JobSink| {
        let source = DebianSource::detect(mirror.as_deref(), &suite)?;
        Ok(images.kernel_pull(&source, sink)?)
    };
    daemon
        .kernel_jobs()
        .run(&key, |now| report(now), work)
        .await
}

/// Builds the lean kernel; callers that ask for the same wait for one build.
pub(crate) async fn build_kernel(
    daemon: &Daemon,
    asked: BuildKernel,
    config: &Config,
    report: &Report,
) -> Result<Kernel, Refusal> {
    may_provision(daemon)?;
    let mirror = asked.mirror.or_else(|| config.debian.mirror.clone());
    let suite = asked.suite.unwrap_or_else(|| config.debian.suite.clone());
    let options = KernelBuildOptions {
        name: asked.name,
        jobs: asked.jobs,
    };
    let images = daemon.images().clone();
    let key = format!("build a kernel of {suite:?} from {mirror:?} with {options:?}");
    let work = move |sink: &JobSink| {
        let source = DebianSource::detect(mirror.as_deref(), &suite)?;
        Ok(images.kernel_build(&source, &options, sink)?)
    };
    daemon
        .kernel_jobs()
        .run(&key, |now| report(now), work)
        .await
}

/// Builds an image; callers that ask for the same wait for one build.
pub(crate) async fn build_image(
    daemon: &Daemon,
    asked: BuildImage,
    config: &Config,
    report: &Report,
) -> Result<Image, Refusal> {
    may_provision(daemon)?;
    if asked.recipe != DEBIAN {
        return Err(Refusal::invalid(format!(
            "build image {:?}: there is no such recipe",
            asked.recipe
        ))
        .hint("banger image build debian"));
    }
    let tag = match asked.tag {
        Some(tag) => tag,
        None => Tag::parse(DEBIAN).map_err(ImagesError::from)?,
    };
    let mirror = asked.mirror.or_else(|| config.debian.mirror.clone());
    let suite = asked.suite.unwrap_or_else(|| config.debian.suite.clone());
    let packages = asked.packages;
    let images: Store = daemon.images().clone();
    let key = format!("build {tag} of {suite:?} from {mirror:?} with {packages:?}");
    let work = move |sink: &JobSink| {
        let source = DebianSource::detect(mirror.as_deref(), &suite)?;
        let options = BuildOptions { packages };
        Ok(images.image_build_debian(&tag, &source, &options, sink)?)
    };
    daemon.image_jobs().run(&key, |now| report(now), work).await
}
