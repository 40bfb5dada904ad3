"""Losses, by name.

``loss = LOSSES.build({"name": "combined", "beta": 0.3})`` gives a `vesselflow.losses.loss.Loss`;
``total, terms = loss(logits, target, fov, progress=0.25)``.

A loss is its file (argument model, function, class), its line here and its test. The file imports
torch inside its functions, because this one may not import it at all.
"""

from vesselflow.losses.bce import BceArguments
from vesselflow.losses.boundary import BoundaryArguments
from vesselflow.losses.cldice import CldiceArguments
from vesselflow.losses.combined import CombinedArguments
from vesselflow.losses.compose import ComposeArguments
from vesselflow.losses.dice import DiceArguments
from vesselflow.losses.fbeta import FbetaArguments
from vesselflow.losses.focal import FocalArguments
from vesselflow.losses.focal_tversky import FocalTverskyArguments
from vesselflow.losses.fuzzy import FuzzyArguments
from vesselflow.losses.jaccard import JaccardArguments
from vesselflow.losses.lovasz import LovaszArguments
from vesselflow.losses.mcc import MccArguments
from vesselflow.losses.mse import MseArguments
from vesselflow.losses.registry import LOSSES
from vesselflow.losses.skeleton_recall import SkeletonRecallArguments
from vesselflow.losses.tversky import TverskyArguments

__all__ = ["LOSSES"]

LOSSES.add("bce", target="vesselflow.losses.bce:Bce", arguments=BceArguments)
LOSSES.add("dice", target="vesselflow.losses.dice:Dice", arguments=DiceArguments)
LOSSES.add("combined", target="vesselflow.losses.combined:Combined", arguments=CombinedArguments)
LOSSES.add("fuzzy", target="vesselflow.losses.fuzzy:Fuzzy", arguments=FuzzyArguments)
LOSSES.add("tversky", target="vesselflow.losses.tversky:Tversky", arguments=TverskyArguments)
LOSSES.add("focal", target="vesselflow.losses.focal:Focal", arguments=FocalArguments)
LOSSES.add("mse", target="vesselflow.losses.mse:Mse", arguments=MseArguments)
LOSSES.add("jaccard", target="vesselflow.losses.jaccard:Jaccard", arguments=JaccardArguments)
LOSSES.add("fbeta", target="vesselflow.losses.fbeta:Fbeta", arguments=FbetaArguments)
LOSSES.add(
    "focal_tversky",
    target="vesselflow.losses.focal_tversky:FocalTversky",
    arguments=FocalTverskyArguments,
)
LOSSES.add("mcc", target="vesselflow.losses.mcc:Mcc", arguments=MccArguments)
LOSSES.add("lovasz", target="vesselflow.losses.lovasz:Lovasz", arguments=LovaszArguments)
LOSSES.add("compose", target="vesselflow.losses.compose:Compose", arguments=ComposeArguments)
LOSSES.add("cldice", target="vesselflow.losses.cldice:Cldice", arguments=CldiceArguments)
LOSSES.add("boundary", target="vesselflow.losses.boundary:Boundary", arguments=BoundaryArguments)
LOSSES.add(
    "skeleton_recall",
    target="vesselflow.losses.skeleton_recall:SkeletonRecall",
    arguments=SkeletonRecallArguments,
)
