//! Kernels.

use super::body::{JsonBody, Word};
use super::images::absolute;
use super::steps;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::provision::{self, Report};
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use banger_api::{
    AddKernel, ImportKernel, KernelView, ProblemBody, ProblemCode, SetDefaultKernel, Step,
};
use banger_images::Kernel;
use banger_names::ByteSize;
use std::sync::Arc;

/// Lists the kernels
#[utoipa::path(get, path = "/v1/kernels", responses((status = 200, body = Vec<KernelView>), (status = "default", body = ProblemBody)))]
pub(crate) async fn list(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Json<Vec<KernelView>>, Refusal> {
    let kernels = daemon.with_images(|images| images.kernels()).await?;
    Ok(Json(kernels.into_iter().map(view).collect()))
}

/// Gets, builds or imports a kernel
#[utoipa::path(
    post, path = "/v1/kernels", request_body = AddKernel,
    responses(
        (status = 200, description = "Lines of JSON, the last with the kernel", body = Step, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn add(
    State(daemon): State<Arc<Daemon>>,
    JsonBody(asked): JsonBody<AddKernel>,
) -> Result<Response, Refusal> {
    let config = daemon.config().await?;
    let task = Arc::clone(&daemon);
    Ok(steps::respond(&daemon, move |report| async move {
        let kernel = match asked {
            AddKernel::Pull(pull) => provision::pull_kernel(&task, pull, &config, &report).await?,
            AddKernel::Build(build) => {
                provision::build_kernel(&task, build, &config, &report).await?
            }
            AddKernel::Import(import) => self::import(&task, import, &report).await?,
        };
        Ok(Step::Kernel(Box::new(view(kernel))).into())
    }))
}

async fn import(daemon: &Daemon, asked: ImportKernel, report: &Report) -> Result<Kernel, Refusal> {
    provision::may_provision(daemon)?;
    let path = absolute(&asked.path)?;
    let modules = asked.modules.as_deref().map(absolute).transpose()?;
    let images = daemon.images().clone();
    let name = asked.name;
    let key = format!("import {path:?} with {modules:?} as {name}");
    let work = move |sink: &crate::shared_job::JobSink| {
        Ok(images.kernel_import(&path, modules.as_deref(), &name, sink)?)
    };
    daemon
        .kernel_jobs()
        .run(&key, |now| report(now), work)
        .await
}

/// Shows a kernel
#[utoipa::path(
    get, path = "/v1/kernels/{kernel}",
    params(("kernel" = String, Path, description = "Name, digest or unique digest prefix")),
    responses((status = 200, body = KernelView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn show(
    State(daemon): State<Arc<Daemon>>,
    Word(wanted): Word,
) -> Result<Json<KernelView>, Refusal> {
    let kernel = daemon
        .with_images(move |images| images.kernel(&wanted))
        .await?;
    Ok(Json(view(kernel)))
}

/// Removes a kernel
#[utoipa::path(
    delete, path = "/v1/kernels/{kernel}",
    params(("kernel" = String, Path, description = "Name, digest or unique digest prefix")),
    responses((status = 200, body = KernelView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn remove(
    State(daemon): State<Arc<Daemon>>,
    Word(wanted): Word,
) -> Result<Json<KernelView>, Refusal> {
    let alone = daemon.contents().write_owned().await;
    let asked = wanted.clone();
    let (kernel, all) = daemon
        .with_images(move |images| Ok((images.kernel(&asked)?, images.kernels()?)))
        .await?;
    let namesakes = all.iter().filter(|other| other.digest == kernel.digest);
    let vms = daemon.vms().all().into_iter();
    let users: Vec<String> = vms
        .filter(|vm| vm.truth.borrow().record.plan.kernel_digest == kernel.digest)
        .map(|vm| vm.name().as_str().to_owned())
        .collect();
    if namesakes.count() <= 1 && !users.is_empty() {
        return Err(Refusal::conflict(format!(
            "remove kernel {wanted:?}: in use by {}",
            users.join(", ")
        ))
        .hint(format!("banger vm rm {}", users.join(" "))));
    }
    let name = kernel.name.clone();
    daemon
        .with_images(move |images| images.kernel_remove(&name))
        .await?;
    drop(alone);
    Ok(Json(view(kernel)))
}

/// Shows the kernel that VMs get unless they ask for another
#[utoipa::path(get, path = "/v1/default-kernel", responses((status = 200, body = KernelView), (status = "default", body = ProblemBody)))]
pub(crate) async fn show_default(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Json<KernelView>, Refusal> {
    let found = daemon
        .with_images(|images| match images.kernel_default()? {
            Some(name) => images.kernel(name.as_str()).map(Some),
            None => Ok(None),
        })
        .await?;
    match found {
        Some(kernel) => Ok(Json(view(kernel))),
        None => Err(Refusal::new(
            ProblemCode::NotFound,
            "find the default kernel: there is none",
        )
        .hint("banger kernel pull")),
    }
}

/// Chooses the kernel that VMs get unless they ask for another
#[utoipa::path(put, path = "/v1/default-kernel", request_body = SetDefaultKernel, responses((status = 200, body = KernelView), (status = "default", body = ProblemBody)))]
pub(crate) async fn set_default(
    State(daemon): State<Arc<Daemon>>,
    JsonBody(asked): JsonBody<SetDefaultKernel>,
) -> Result<Json<KernelView>, Refusal> {
    let kernel = daemon
        .with_images(move |images| {
            images.set_kernel_default(&asked.name)?;
            images.kernel(asked.name.as_str())
        })
        .await?;
    Ok(Json(view(kernel)))
}

fn view(kernel: Kernel) -> KernelView {
    let path = kernel.vmlinux();
    KernelView {
        // Size and modules are looked at here: a kernel removed meanwhile shows none.
        size: ByteSize(std::fs::symlink_metadata(&path).map_or(0, |meta| meta.len())),
        has_modules: kernel.modules_dir().is_some(),
        path: path.display().to_string(),
        name: kernel.name,
        digest: kernel.digest,
        version: kernel.version,
        created_unix: kernel.created_unix,
        is_default: kernel.is_default,
        source: kernel.source,
    }
}
