//! What a worker of a fleet is asked for.

use crate::config::ReturnImagesAs;
use crate::error::JobError;
use crate::executor::elsewhere::{Ask, AskedFile, AskedWork};
use crate::job::{Delivery, ImageContent, ImageName, InputImage, JobRequest, Origin, Work};

/// What a worker is asked for. The result goes back as it is written there: all else is done here.
pub(super) fn request_of(ask: Ask, id: &str) -> Result<JobRequest, JobError> {
    let (work, origin) = match ask.work {
        AskedWork::Graph(graph) => (Work::Workflow(graph), Origin::Files),
        AskedWork::Saved(saved) => (Work::Saved(saved), Origin::Files),
        AskedWork::Prompt(prompt) => {
            let mut asked = prompt.asked;
            // There it has an id of its own, perhaps.
            asked.filename_prefix = asked.filename_prefix.map(|prefix| prefix.replace("{job_id}", id));
            (Work::Template(asked), Origin::Images)
        }
    };
    let image = |file: AskedFile| {
        Ok(InputImage {
            name: ImageName::parse(&file.name).map_err(JobError::internal)?,
            content: ImageContent::Here(file.content),
            origin: origin.clone(),
        })
    };
    let images = ask.files.into_iter().map(image).collect::<Result<_, JobError>>()?;
    let extra_data = ask.extra_pnginfo.map(|info| ("extra_pnginfo".to_owned(), info));
    Ok(JobRequest {
        work,
        images,
        delivery: Delivery {
            return_images_as: Some(ReturnImagesAs::Metadata),
            return_workflow: ask.wants_graph,
            ..Delivery::default()
        },
        org_api_key: ask.org_api_key,
        extra_data: extra_data.into_iter().collect(),
        warnings: Vec::new(),
    })
}
