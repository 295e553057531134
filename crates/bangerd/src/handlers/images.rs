//! Images.

use super::body::{JsonBody, Word};
use super::steps;
use crate::daemon::Daemon;
use crate::problem::Refusal;
use crate::provision;
use axum::Json;
use axum::extract::State;
use axum::response::Response;
use banger_api::{AddImage, ImageView, ImportImage, ProblemBody, Step};
use banger_images::Image;
use banger_names::{ByteSize, Digest};
use std::path::PathBuf;
use std::sync::Arc;

/// Lists the images
#[utoipa::path(get, path = "/v1/images", responses((status = 200, body = Vec<ImageView>), (status = "default", body = ProblemBody)))]
pub(crate) async fn list(
    State(daemon): State<Arc<Daemon>>,
) -> Result<Json<Vec<ImageView>>, Refusal> {
    let images = daemon.with_images(|images| images.images()).await?;
    let views = images.into_iter().map(|image| view(&daemon, image));
    Ok(Json(views.collect()))
}

/// Builds or imports an image
#[utoipa::path(
    post, path = "/v1/images", request_body = AddImage,
    responses(
        (status = 200, description = "Lines of JSON, the last with the image", body = Step, content_type = "application/x-ndjson"),
        (status = "default", description = "Why not", body = ProblemBody),
    )
)]
pub(crate) async fn add(
    State(daemon): State<Arc<Daemon>>,
    JsonBody(asked): JsonBody<AddImage>,
) -> Result<Response, Refusal> {
    let config = daemon.config().await?;
    let task = Arc::clone(&daemon);
    Ok(steps::respond(&daemon, move |report| async move {
        let image = match asked {
            AddImage::Build(build) => {
                provision::build_image(&task, build, &config, &report).await?
            }
            AddImage::Import(import) => self::import(&task, import, &report).await?,
        };
        Ok(Step::Image(Box::new(view(&task, image))).into())
    }))
}

async fn import(
    daemon: &Daemon,
    asked: ImportImage,
    report: &provision::Report,
) -> Result<Image, Refusal> {
    provision::may_provision(daemon)?;
    let path = absolute(&asked.path)?;
    let images = daemon.images().clone();
    let tag = asked.tag;
    let key = format!("import {path:?} as {tag}");
    daemon
        .image_jobs()
        .run(
            &key,
            |now| report(now),
            move |sink| Ok(images.image_import(&path, &tag, sink)?),
        )
        .await
}

/// A file on the host, as the client names it: the daemon has another working directory.
pub(super) fn absolute(path: &str) -> Result<PathBuf, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::invalid(format!(
            "import {path:?}: that is not an absolute path"
        )));
    }
    Ok(PathBuf::from(path))
}

/// Shows an image
#[utoipa::path(
    get, path = "/v1/images/{image}",
    params(("image" = String, Path, description = "Tag, digest or unique digest prefix")),
    responses((status = 200, body = ImageView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn show(
    State(daemon): State<Arc<Daemon>>,
    Word(wanted): Word,
) -> Result<Json<ImageView>, Refusal> {
    let image = daemon
        .with_images(move |images| images.image(&wanted))
        .await?;
    Ok(Json(view(&daemon, image)))
}

/// Removes a tag, and with the last one the image
#[utoipa::path(
    delete, path = "/v1/images/{image}",
    params(("image" = String, Path, description = "Tag, digest or unique digest prefix")),
    responses((status = 200, body = ImageView), (status = "default", body = ProblemBody))
)]
pub(crate) async fn remove(
    State(daemon): State<Arc<Daemon>>,
    Word(wanted): Word,
) -> Result<Json<ImageView>, Refusal> {
    let alone = daemon.contents().write_owned().await;
    let asked = wanted.clone();
    let image = daemon
        .with_images(move |images| images.image(&asked))
        .await?;
    let goes_for_good =
        image.tags.len() <= 1 || !image.tags.iter().any(|tag| tag.as_str() == wanted);
    let users = users_of(&daemon, &image.digest);
    if goes_for_good && !users.is_empty() {
        return Err(Refusal::conflict(format!(
            "remove image {wanted:?}: in use by {}",
            users.join(", ")
        ))
        .hint(format!("banger vm rm {}", users.join(" "))));
    }
    let last = view(&daemon, image);
    daemon
        .with_images(move |images| images.image_remove(&wanted))
        .await?;
    drop(alone);
    Ok(Json(last))
}

fn users_of(daemon: &Daemon, digest: &Digest) -> Vec<String> {
    let vms = daemon.vms().all().into_iter();
    vms.filter(|vm| vm.truth.borrow().record.plan.image_digest == *digest)
        .map(|vm| vm.name().as_str().to_owned())
        .collect()
}

fn view(daemon: &Daemon, image: Image) -> ImageView {
    ImageView {
        used_by: users_of(daemon, &image.digest),
        path: image.path().display().to_string(),
        digest: image.digest,
        tags: image.tags,
        size: ByteSize(image.size),
        disk_used: ByteSize(image.disk_usage),
        created_unix: image.created_unix,
        source: image.source,
    }
}
