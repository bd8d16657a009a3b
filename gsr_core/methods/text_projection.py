r"""The projections of an image-text network, trained by contrasts of images and of words.

Yang, Nushi, Palangi and Mirzasoleiman, "Mitigating Spurious Correlations in Multi-modal Models
during Fine-tuning" (ICML 2023): the encoders of images and texts stay as they are, and linear maps
W and V behind them descend

.. math:: a_1 L_{CLIP} + a_2 L_{vc} + a_3 L_{vs} + a_4 L_{lc} + a_5 L_{ls} .

- *L_CLIP*: the mean of the cross-entropies from image to caption and back, over a batch of images
  with a template of their class, drawn anew in each pass, as their caption. Several images of a
  batch have the same caption, and only their own counts as right, as in CLIP's loss.
- *L_vc, L_vs*: contrasts of images between classes and between groups (`projection`).
- *L_lc, L_ls*: the same contrasts of texts, which are all templates: those of the classes and those
  of class and attribute. In L_ls a template without an attribute is of the group "absent" of its
  class.

A sample's class is that of the nearest words: :math:`\arg\max_c \langle z, t_c \rangle`, z the
normalised projection x W / |x W|, t_c the mean of the normalised projected templates of class c.

**One linear head.** Whatever the length of x W, its largest product with a t_c is with the same c,
so the head with rows :math:`W t_c / (\tau s)` on raw features *predicts* exactly what z does. Its
*probabilities* are those of x W / s, where s is the mean length over the fitted rows, and not of
x W / |x W|: a sample of another length has a sharper or flatter softmax than the network would
give. So accuracies of a run are the method's, losses and calibration are of this head.

Where we differ, and why:

- Features of a bundle are behind the network's own projections already, so W and V begin as the
  identity and follow these: what the projections leave out cannot come back. Step 1 is the network
  as it was published, asked with these words.
- Each term has a weight, and is the mean over its anchors; see `contrast`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from gsr_core.data.problem import Problem
from gsr_core.data.words import Words
from gsr_core.errors import SettingError
from gsr_core.linear.head import Head
from gsr_core.methods.base import (
    SETTINGS_CONFIG,
    LabelNeeds,
    Range,
    SearchSpace,
    Step,
    Values,
    settings,
)
from gsr_core.methods.contrast import Contrast, alike, contrast, group_batches
from gsr_core.methods.contrastive_training import SHARPEST, Pass, TrainedProjection, Training
from gsr_core.methods.draws import per_row
from gsr_core.methods.projection import check_contrast, grouped, image_terms

__all__ = ["TextProjection", "Texts", "clip_term"]

_CLASS, _ATTRIBUTE = "{class}", "{attribute}"


@settings(frozen=True, kw_only=True, config=SETTINGS_CONFIG)
class TextProjection(TrainedProjection):
    """Train the projections of an image-text network, and classify by words.

    One step is one pass over the rows; selection on val picks it.
    """

    name: ClassVar[str] = "text_projection"
    title: ClassVar[str] = "Text projection: contrasts of images and words"
    summary: ClassVar[str] = (
        "Trains the projections of an image-text network by contrasts between classes and groups, "
        "of images and of templates in words, and classifies by the nearest words; each step is "
        "one pass over the rows, the first one the network as it came."
    )
    use_when: ClassVar[str] = (
        "The features are of an image-text network (open_clip, or CLIP by transformers), and the "
        "attribute behind the shortcut can be named, even if no sample is labelled with it; write "
        "`templates` and `class_words` as the network's captions were, since other words do worse."
    )
    needs: ClassVar[LabelNeeds] = LabelNeeds.NONE
    values: ClassVar[Values] = Values.NONE
    reads_words: ClassVar[bool] = True
    search: ClassVar[SearchSpace] = {
        "lr": Range(1e-4, 1.0),
        "clip_weight": (0.0, 1.0),
        "text_class_weight": (0.0, 1.0),
        "text_group_weight": (0.0, 0.5, 1.0),
    }

    clip_weight: Annotated[
        float, Field(ge=0, description="Weight of L_CLIP, between images and their captions.")
    ] = 1.0
    class_weight: Annotated[
        float, Field(ge=0, description="Weight of L_vc, between the classes of images.")
    ] = 1.0
    group_weight: Annotated[
        float,
        Field(
            ge=0,
            description="Weight of L_vs, between the groups of images; above 0 it reads the group "
            "labels of the fitted rows.",
        ),
    ] = 0.0
    text_class_weight: Annotated[
        float, Field(ge=0, description="Weight of L_lc, between the classes of templates.")
    ] = 1.0
    text_group_weight: Annotated[
        float, Field(ge=0, description="Weight of L_ls, between the groups of templates.")
    ] = 1.0
    templates: Annotated[
        str, Field(description="Templates of a class, with ; between them and {class} in each.")
    ] = "a photo of a {class}; a picture of a {class}; a {class}"
    group_templates: Annotated[
        str,
        Field(
            description="Templates of a class with an attribute, with ; between them and {class} "
            "and {attribute} in each."
        ),
    ] = "a photo of a {class} on {attribute}; a {class} on {attribute}"
    class_words: Annotated[
        str,
        Field(
            description="Words for the classes in their order, with ; between; their names if ''."
        ),
    ] = ""
    temperature: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Tau at the start, which divides cosines; 0 takes the network's own.",
        ),
    ] = 0.0

    @property
    def labels_used(self) -> tuple[str, ...]:
        """Which rows' group labels are read; terms of texts read none."""
        used = super().labels_used
        return ("weighted", *used) if self.group_weight else used

    def weights(self) -> dict[str, float]:
        """Return the weight of each term."""
        return {
            "clip_term": self.clip_weight,
            "class_term": self.class_weight,
            "group_term": self.group_weight,
            "text_class_term": self.text_class_weight,
            "text_group_term": self.text_group_weight,
        }

    def check(self) -> None:
        """Refuse to train by nothing, and templates that lack what they stand for.

        Raises:
            SettingError: If all terms have weight zero, or a template does not name the class, or
                the attribute where it should.
        """
        if not any(self.weights().values()):
            raise SettingError(
                "clip_weight, class_weight, group_weight, text_class_weight and text_group_weight "
                "are all 0, so that nothing trains the projections; set one of them above 0"
            )
        if 0 < self.temperature < 1 / SHARPEST:
            raise SettingError(
                f"temperature is {self.temperature:g}; allowed are {1 / SHARPEST:g} to 1, and 0 "
                "for the network's own"
            )
        for name, text, parts in (
            ("templates", self.templates, (_CLASS,)),
            ("group_templates", self.group_templates, (_CLASS, _ATTRIBUTE)),
        ):
            for each in _listed(text):
                if missing := [part for part in parts if part not in each]:
                    raise SettingError(
                        f"{name} has '{each}', which lacks {' and '.join(missing)}; write it where "
                        "the name is to stand"
                    )
        if not _listed(self.templates):
            raise SettingError(f"templates is '{self.templates}'; give one with {_CLASS} at least")

    def check_classes(self, classes: Sequence[str]) -> None:
        """Refuse words that do not name each class.

        Raises:
            SettingError: If they are more or fewer.
        """
        given = len(_listed(self.class_words))
        if given not in (0, len(classes)):
            raise SettingError(
                f"class_words names {given} of {len(classes)} classes, which are "
                f"{'; '.join(classes)}; give one for each, in this order"
            )

    def iterate(
        self, problem: Problem, checkpoint: Mapping[str, Tensor] | None = None
    ) -> Iterator[Step]:
        """Yield one head after each pass over the rows, without end; the driver counts.

        Args:
            problem: The data, with words.
            checkpoint: `Step.checkpoint` of the step after which to go on; from the network as it
                came if None.

        Raises:
            SettingError: If there are no words, or they do not fit the classes, or a term of
                positive weight has nothing to contrast.
        """
        self.check()
        if problem.words is None:
            raise SettingError(
                f"{self.name} reads words, which only a run of a bundle has; start it by 'gsr run' "
                "or gsr.run on a bundle whose network takes phrases"
            )
        rows, dtype = problem.weighted, problem.compute.accumulate_dtype
        features = rows.features.to(dtype)
        texts = self._texts(problem.words, features)
        group = rows.labels.cpu().numpy()
        if self.class_weight:
            check_contrast("class_weight", self.class_weight, group, "classes", len(rows))
        codes = None
        if self.group_weight:
            group = grouped(problem, self.grouping)
            check_contrast(
                "group_weight", self.group_weight, group[group >= 0], "groups", len(rows)
            )
            codes = torch.from_numpy(group).to(rows.labels.device)
        known = problem.words.temperature
        identity = torch.eye(features.shape[1])
        training = Training(
            self,
            self.weights(),
            lambda: {"image": identity, "text": identity},
            min(max(self.temperature or known or 1 / SHARPEST, 1 / SHARPEST), 1.0),
            features,
            checkpoint,
        )
        unit = normalize(features, dim=1)
        weight = features.new_full((len(rows),), 1 / len(rows))

        while True:
            generator = np.random.default_rng([self.seed, training.passes])
            drawn = (per_row(rows, generator) * texts.each).astype(np.int64)
            caption = rows.labels * texts.each + torch.from_numpy(drawn).to(rows.labels.device)
            passed = Pass()
            for batch in group_batches(rows, group, self.batch_size, generator):
                place = torch.from_numpy(batch).to(rows.labels.device)
                members = None if codes is None else codes[place]
                seen = unit[place], rows.labels[place], members, caption[place]
                passed.add(training.step(partial(_terms, texts, *seen)))
            training.passes += 1
            numbers = passed.numbers()
            done = training.passes - 1
            trained = f"after {done:,} passes" if done else "as they came"
            yield Step(
                head=_head(texts, features, training),
                sample_weight=weight,
                objective=sum(
                    each * numbers[name] for name, each in self.weights().items() if each
                ),
                note=f"The projections {trained}; templates of each class: {texts.each}; "
                f"temperature {training.temperature:.3g}.",
                terms={**numbers, "temperature": training.temperature},
                checkpoint=training.checkpoint(),
            )

    def _texts(self, words: Words, like: Tensor) -> Texts:
        """Return all templates with their embeddings.

        Raises:
            SettingError: If words do not fit the classes or the features, or a term of positive
                weight has too few templates.
        """
        self.check_classes(words.classes)
        classes = _listed(self.class_words) or words.classes
        of_class, of_group = _listed(self.templates), _listed(self.group_templates)
        attributes = words.attributes if of_group else []
        if self.text_group_weight and (len(attributes) < 2 or len(of_group) < 2):
            raise SettingError(
                f"text_group_weight is {self.text_group_weight:g}, but there are {len(attributes)} "
                f"values of an attribute and {len(of_group)} group_templates, and a contrast needs "
                "two of each; set text_group_weight=0, give more templates, or let the method see "
                "groups of an attribute (--seen-groups)"
            )
        if self.text_class_weight and len(of_class) + len(of_group) * len(attributes) < 2:
            raise SettingError(
                f"text_class_weight is {self.text_class_weight:g}, but each class has one template "
                "only, which has no other to be near; give a second one, or set text_class_weight=0"
            )
        absent = len(attributes)
        phrases, label, attribute = [], [], []
        for number, name in enumerate(classes):
            for template in of_class:
                phrases.append(template.replace(_CLASS, name))
                label.append(number)
                attribute.append(absent)
        for number, name in enumerate(classes):
            for place, value in enumerate(attributes):
                for template in of_group:
                    phrases.append(template.replace(_CLASS, name).replace(_ATTRIBUTE, value))
                    label.append(number)
                    attribute.append(place)
        embedded = words.embed(phrases)
        if embedded.shape[1] != like.shape[1]:
            raise SettingError(
                f"phrases become {embedded.shape[1]} numbers, but there are {like.shape[1]} "
                "features; import the data with the network's shared space (--preprocess "
                "pooling=projection)"
            )
        labels, values = torch.tensor(label), torch.tensor(attribute)
        group = values if self.grouping == "attribute" else labels * (absent + 1) + values
        device = like.device
        return Texts(
            unit=normalize(embedded.to(like), dim=1),
            label=labels.to(device),
            group=group.to(device),
            each=len(of_class),
            n_classes=len(classes),
        )


@dataclass(frozen=True)
class Texts:
    """The templates, those of classes alone first, class by class.

    Attributes:
        unit: (t, d) their embeddings, each of length 1.
        label: (t,) classes.
        group: (t,) groups.
        each: Templates of each class alone.
        n_classes: K.
    """

    unit: Tensor
    label: Tensor
    group: Tensor
    each: int
    n_classes: int

    def of_classes(self, projection: Tensor) -> Tensor:
        """Return (K, e) the mean of each class's projected templates, normalised one by one."""
        alone = self.unit[: self.each * self.n_classes] @ projection
        return normalize(alone, dim=1).unflatten(0, (self.n_classes, self.each)).mean(dim=1)


def clip_term(image: Tensor, caption: Tensor, sharpness: Tensor | float) -> Contrast:
    """Return L_CLIP of a batch: its images, each with its caption.

    Args:
        image: (b, e) each of length 1.
        caption: (b, e) each of length 1.
        sharpness: 1 / tau.
    """
    similarity = image @ caption.T * sharpness
    own = torch.arange(len(image), device=image.device)
    loss = (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2
    return Contrast(loss, torch.tensor(len(image)), len(image))


def _terms(
    texts: Texts,
    features: Tensor,
    labels: Tensor,
    group: Tensor | None,
    caption: Tensor,
    values: Mapping[str, Tensor],
    sharpness: Tensor,
) -> dict[str, Contrast]:
    """Return the terms of a batch, given its rows, the parameters and 1 / tau."""
    image = normalize(features @ values["image"], dim=1)
    text = normalize(texts.unit @ values["text"], dim=1)
    similarity = text @ text.T * sharpness
    return {
        "clip_term": clip_term(image, text[caption], sharpness),
        **image_terms(image, labels, group, sharpness),
        "text_class_term": contrast(similarity, *alike(texts.label)),
        "text_group_term": contrast(similarity, *alike(texts.group)),
    }


def _head(texts: Texts, features: Tensor, training: Training) -> Head:
    """Return the linear head on raw features that predicts the class of the nearest words."""
    size = (features @ training["image"]).norm(dim=1).mean()
    scale = size.clamp(min=torch.finfo(size.dtype).tiny) * training.temperature
    weight = texts.of_classes(training["text"]) @ training["image"].T / scale
    return Head(weight, weight.new_zeros(len(weight)))


def _listed(text: str) -> list[str]:
    """Return the parts of a setting with ; between them, without blanks around them."""
    return [part.strip() for part in text.split(";") if part.strip()]
