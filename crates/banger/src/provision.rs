//! Has a builder make the default kernel and image, where they are missing.

use crate::commands::{image, kernel};
use crate::error::CliError;
use crate::ui::progress::Progress;
use banger_api::client::{Client, ClientError};
use banger_api::{AddImage, AddKernel, BuildImage, ImageView, KernelView, ProblemCode, PullKernel};
use serde::de::DeserializeOwned;

/// The image that VMs get by default, and its recipe.
const DEBIAN: &str = "debian";

/// Makes what is missing of the two; `progress` goes on.
pub(crate) async fn defaults(builder: &Client, progress: &mut Progress) -> Result<(), CliError> {
    if is_missing::<KernelView>(builder, "/v1/default-kernel").await? {
        let pull = AddKernel::Pull(PullKernel::default());
        builder
            .steps(kernel::PATH, &pull, |step| progress.show(&step))
            .await?;
    }
    if is_missing::<ImageView>(builder, &image::path(DEBIAN)).await? {
        let build = AddImage::Build(BuildImage {
            recipe: DEBIAN.to_owned(),
            tag: None,
            suite: None,
            mirror: None,
            packages: Vec::new(),
        });
        builder
            .steps(image::PATH, &build, |step| progress.show(&step))
            .await?;
    }
    Ok(())
}

async fn is_missing<T: DeserializeOwned>(builder: &Client, path: &str) -> Result<bool, CliError> {
    match builder.get::<T>(path).await {
        Ok(_) => Ok(false),
        Err(ClientError::Problem(problem)) if problem.code == ProblemCode::NotFound => Ok(true),
        Err(error) => Err(error.into()),
    }
}
