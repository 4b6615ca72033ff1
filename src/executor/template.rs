//! Stage: a template is filled, after ComfyUI was asked for what not every ComfyUI has: classes that came with a later version,
//! and nodes that draw control pictures.

use std::time::Duration;

use crate::comfy::Connection;
use crate::config::ImageFormat;
use crate::error::{ErrorKind, JobError};
use crate::job::{Delivery, InputImage, JobId, JobRequest, TemplateRequest, Work};
use crate::workflow::{ClassSpec, ControlType, Graph, Preprocessor, Template};

use super::{Executor, parameters, template_of};

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
        mut request: TemplateRequest,
        job: &JobId,
        (folder, patience): (&str, Option<Duration>),
        images: &[InputImage],
    ) -> Result<Filled, JobError> {
        let template = self.template_for(&request, images)?;
        let seed = request.seed.is_none().then(parameters::random_seed).transpose()?;
        request.seed = request.seed.or(seed);
        let fill = |preprocessor: Option<Preprocessor>| {
            parameters::graph_of(
                &self.templates,
                template,
                request.clone(),
                job,
                folder,
                images,
                preprocessor,
            )
        };
        let mut filled = Filled {
            template: template.name().to_owned(),
            graph: fill(None)?,
            seed,
            warnings: Vec::new(),
        };
        let usual = || template.control_types().first().copied();
        let kind = request.control.as_ref().and_then(|control| control.kind.or_else(usual));
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
            Some(preprocessor) => filled.graph = fill(Some(preprocessor))?,
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

    /// An installed node that draws this kind of control picture, and needs nothing but the picture for it.
    async fn preprocessor(&self, connection: &Connection, kind: ControlType) -> Result<Option<Preprocessor>, JobError> {
        for class in kind.preprocessors() {
            let info = connection.client.object_info(class).await?;
            let spec = info.map(|info| ClassSpec::parse(class, &info));
            if let Some(spec) = spec.filter(|spec| spec.draws("image")) {
                let is_sized = spec.inputs.contains_key(Preprocessor::SIDE);
                return Ok(Some(Preprocessor { class, is_sized }));
            }
        }
        Ok(None)
    }

    /// The template of a request.
    pub(super) fn template_for(&self, request: &TemplateRequest, images: &[InputImage]) -> Result<&Template, JobError> {
        self.templates.find(template_of(&self.templates, request, images))
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
        // One that is not there is told when it is filled.
        let Ok(template) = self.template_for(template, images) else {
            return;
        };
        if template.has_alpha() && self.results.format(delivery) == Some(ImageFormat::Jpeg) {
            warnings.push(format!(
                "the pictures stay PNG, not JPEG, which has no transparency: those of template `{}` have some that counts",
                template.name()
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
        let Work::Template(asked) = &request.work else {
            return None;
        };
        let template = self.template_for(asked, &request.images).ok()?;
        if !template.needs_mask() || asked.mask.is_some() {
            return None;
        }
        let mut images = request.images.iter();
        images.find(|image| asked.is_worked_from(image)).cloned()
    }
}
