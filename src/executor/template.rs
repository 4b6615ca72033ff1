//! Stage: a template is filled, after ComfyUI was asked for what not every ComfyUI has: classes that came with a later version,
//! and nodes that draw control pictures.

use std::time::Duration;

use crate::comfy::Connection;
use crate::config::ImageFormat;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, InputImage, JobId, JobRequest, TemplateRequest, Work};
use crate::workflow::{ClassSpec, ControlType, Graph, Template};

use super::{Executor, parameters};

/// What became of a template.
pub(super) struct Filled {
    /// Its name.
    pub(super) template: String,
    pub(super) graph: Graph,
    /// The seed, where we chose it.
    pub(super) seed: Option<u64>,
    /// What the user should know.
    pub(super) warnings: Vec<String>,
}

impl Executor {
    /// The graph of a job that fills a template. What is wrong with the request is told before ComfyUI is waited for.
    pub(super) async fn fill(
        &self,
        request: TemplateRequest,
        job: &JobId,
        (folder, patience): (&str, Option<Duration>),
        images: &[InputImage],
    ) -> Result<Filled, JobError> {
        let fill = |preprocessor: Option<&str>| {
            parameters::graph_of(&self.templates, request.clone(), job, folder, images, preprocessor)
        };
        let (graph, seed) = fill(None)?;
        let template = self
            .templates
            .find(parameters::template_of(&self.templates, &request, images))?;
        let mut filled = Filled {
            template: template.name().to_owned(),
            graph,
            seed,
            warnings: Vec::new(),
        };
        let kind = request.control.as_ref().and_then(|control| control.kind);
        // Edges are drawn by a node that every ComfyUI has.
        let drawn = kind.filter(|kind| !matches!(kind, ControlType::Canny | ControlType::Ready));
        if template.needs().is_none() && drawn.is_none() {
            return Ok(filled);
        }
        let connection = self.comfy.available(patience).await?;
        if let Some(why) = self.too_old(&connection, template).await? {
            let hint = if self.comfy.is_supervised() {
                "Set COMFYUI_VERSION=v0.46.0, or another release from then on, and start the worker again."
            } else {
                "Take a newer ComfyUI."
            };
            return Err(JobError::new(ErrorKind::InvalidRequest, why).hint(hint).at("template"));
        }
        let Some(kind) = drawn else { return Ok(filled) };
        match self.preprocessor(&connection, kind).await? {
            Some(class) => (filled.graph, filled.seed) = fill(Some(class))?,
            None => filled.warnings.push(format!(
                "the control picture is taken as it is, as `{}` already: nothing that would draw it is installed{}",
                kind.as_str(),
                if kind.preprocessors().is_empty() {
                    ""
                } else {
                    " (CUSTOM_NODES=comfyui_controlnet_aux would)"
                }
            )),
        }
        Ok(filled)
    }

    /// Why this ComfyUI cannot run a template, in words, where it is too old for it.
    pub(super) async fn too_old(
        &self,
        connection: &Connection,
        template: &Template,
    ) -> Result<Option<String>, JobError> {
        let Some(needs) = template.needs() else { return Ok(None) };
        let Some(class) = self.schemas.first_absent(connection, &needs.classes).await? else {
            return Ok(None);
        };
        let this = match self.comfy.version().version {
            Some(version) => format!("this is {version}"),
            None => format!("this one has no node `{class}`"),
        };
        let (name, version) = (template.name(), &needs.comfyui);
        Ok(Some(format!("template `{name}` needs ComfyUI {version}; {this}")))
    }

    /// The class of an installed node that draws this kind of control picture, and needs nothing but the picture for it.
    async fn preprocessor(&self, connection: &Connection, kind: ControlType) -> Result<Option<&'static str>, JobError> {
        for class in kind.preprocessors() {
            let info = connection.client.object_info(class).await?;
            let spec = info.map(|info| ClassSpec::parse(class, &info));
            if spec.is_some_and(|spec| spec.draws("image")) {
                return Ok(Some(class));
            }
        }
        Ok(None)
    }

    /// Keeps pictures whose transparency counts from becoming JPEG, which has none.
    pub(super) fn keep_transparency(&self, request: &mut JobRequest) {
        let JobRequest {
            work: Work::Template(template),
            images,
            delivery,
            warnings,
            ..
        } = request
        else {
            return;
        };
        let name = parameters::template_of(&self.templates, template, images);
        let has_alpha = self.templates.get(name).is_some_and(Template::has_alpha);
        if has_alpha && self.results.format(delivery) == Some(ImageFormat::Jpeg) {
            warnings.push(format!(
                "the pictures stay PNG, not JPEG, which has no transparency: with template `{name}` it says what belongs to a layer"
            ));
            *delivery = Delivery {
                output_format: Some(ImageFormat::Png),
                quality: None,
                ..std::mem::take(delivery)
            };
        }
    }

    /// The image of a request that has to say by its own transparency what is filled in, since no mask does.
    pub(super) fn image_as_mask(&self, request: &JobRequest) -> Option<InputImage> {
        let Work::Template(template) = &request.work else {
            return None;
        };
        let name = parameters::template_of(&self.templates, template, &request.images);
        let needs_mask = self.templates.get(name).is_some_and(Template::needs_mask);
        let is_missing = needs_mask && template.mask.is_none();
        request
            .images
            .iter()
            .find(|image| is_missing && template.is_worked_from(image))
            .cloned()
    }
}
