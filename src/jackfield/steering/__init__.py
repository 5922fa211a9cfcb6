"""Steering: control of a model by writing into its activations, and guards that watch them.

Lives here: directions (mean difference, PCA of pairs, logistic, covariance-aware), ablation, caps,
conditions, transport maps and single units; what steering costs and does (doses in KL, report
cards, tables of methods); behaviours to fit from and to measure on. In rooms of their own:

    features/    latents of a dictionary          preference/  learned from preferred answers
    reft/        learned from what is to be said  tasks/       function vectors, reasoning
    control/     feedback, a deciding network     axes/        roles and levels
    manifolds/   along curves                     rules/       concepts, rules, what follows
    guards/      watch a generation               formats/     others' files

May use: core, edits, streams, model, reports. Look first: `steering.py` (what every fitted method
can do) and `dose.py`, then `mean_difference.py`.
"""

from jackfield.steering import (
    axes,
    control,
    features,
    formats,
    guards,
    manifolds,
    preference,
    reft,
    rules,
    tasks,
)
from jackfield.steering.abilities import Abilities
from jackfield.steering.act import AcT
from jackfield.steering.austeer import AUSteer, SteeredUnits
from jackfield.steering.axes import (
    GRANULARITY,
    AssistantAxis,
    LevelAxis,
    OrdinalAxis,
    RoleSpace,
    ask_roles,
)
from jackfield.steering.axis_cap import AxisCap, CappedAxis
from jackfield.steering.bake import BakeEdits, bake
from jackfield.steering.behaviours import BEHAVIOURS, Behaviour
from jackfield.steering.conditional import Conditional, ConditionalSteering
from jackfield.steering.contrast import Contrast, read_contrast
from jackfield.steering.control import (
    LQR,
    CompressedReasoning,
    Compression,
    FeedbackControl,
    GuidedController,
    GuidedSteering,
    PIDSteering,
)
from jackfield.steering.cost import Fluency, KLCost, fluency, kl_costs
from jackfield.steering.covariance_aware import CovarianceAware
from jackfield.steering.direction_method import DirectionMethod
from jackfield.steering.directional_ablation import AblatedDirection, DirectionalAblation, ablated
from jackfield.steering.directions import Directions
from jackfield.steering.dose import Dose, Strength
from jackfield.steering.features import (
    FeatureSteering,
    LangFIR,
    RandomFilteredDifference,
    SteeredFeatures,
)
from jackfield.steering.guards import (
    ConformalThreshold,
    EigenTrack,
    EigenTracked,
    FittedFilter,
    Guard,
    Guarded,
    GuardTrial,
    LinearFilter,
    Projection,
    SpectralDetector,
)
from jackfield.steering.layer_sweep import LayerSweep
from jackfield.steering.lineas import LinEAS
from jackfield.steering.logistic_direction import LogisticDirection
from jackfield.steering.manifolds import (
    ORDERED_TASKS,
    ActivationManifold,
    ManifoldPaths,
    ManifoldSteering,
)
from jackfield.steering.matched import RandomDirections
from jackfield.steering.mean_difference import MeanDifference
from jackfield.steering.method_table import Entry, MethodTable
from jackfield.steering.ot_map import OTMap, SubspaceMaps
from jackfield.steering.paired_pca import PairedPCA
from jackfield.steering.preference import BiPO, PreferenceCode, PreferenceVector, YaPO
from jackfield.steering.reft import LatentDirection, LoReFT, LowRankMaps, ReFTr1
from jackfield.steering.reinjected import Reinjected
from jackfield.steering.reinjection import Reinjection
from jackfield.steering.report_card import ReportCard
from jackfield.steering.rules import ActivationReasoning, OntologyQuestions, Reasoning
from jackfield.steering.sentences import CALM, FURIOUS, JOYFUL, NEUTRAL, SORROWFUL
from jackfield.steering.spec import Conflict, Spec
from jackfield.steering.steering import Steering
from jackfield.steering.steering_vector import SteeringVector, TokensRead
from jackfield.steering.sweep import SteeredText, Sweep
from jackfield.steering.tasks import (
    IN_CONTEXT,
    DemonstrationDifference,
    FunctionDirection,
    FunctionVector,
    InContextAccuracy,
    ReasoningSweep,
    ReasoningVector,
    SteerableOrDecodable,
)
from jackfield.steering.unit_maps import UnitMaps
from jackfield.steering.word_odds import WordOdds, WordOddsShift

__all__ = [
    "BEHAVIOURS",
    "CALM",
    "FURIOUS",
    "GRANULARITY",
    "IN_CONTEXT",
    "JOYFUL",
    "LQR",
    "NEUTRAL",
    "ORDERED_TASKS",
    "SORROWFUL",
    "AUSteer",
    "Abilities",
    "AblatedDirection",
    "AcT",
    "ActivationManifold",
    "ActivationReasoning",
    "AssistantAxis",
    "AxisCap",
    "BakeEdits",
    "Behaviour",
    "BiPO",
    "CappedAxis",
    "CompressedReasoning",
    "Compression",
    "Conditional",
    "ConditionalSteering",
    "Conflict",
    "ConformalThreshold",
    "Contrast",
    "CovarianceAware",
    "DemonstrationDifference",
    "DirectionMethod",
    "DirectionalAblation",
    "Directions",
    "Dose",
    "EigenTrack",
    "EigenTracked",
    "Entry",
    "FeatureSteering",
    "FeedbackControl",
    "FittedFilter",
    "Fluency",
    "FunctionDirection",
    "FunctionVector",
    "Guard",
    "GuardTrial",
    "Guarded",
    "GuidedController",
    "GuidedSteering",
    "InContextAccuracy",
    "KLCost",
    "LangFIR",
    "LatentDirection",
    "LayerSweep",
    "LevelAxis",
    "LinEAS",
    "LinearFilter",
    "LoReFT",
    "LogisticDirection",
    "LowRankMaps",
    "ManifoldPaths",
    "ManifoldSteering",
    "MeanDifference",
    "MethodTable",
    "OTMap",
    "OntologyQuestions",
    "OrdinalAxis",
    "PIDSteering",
    "PairedPCA",
    "PreferenceCode",
    "PreferenceVector",
    "Projection",
    "RandomDirections",
    "RandomFilteredDifference",
    "ReFTr1",
    "Reasoning",
    "ReasoningSweep",
    "ReasoningVector",
    "Reinjected",
    "Reinjection",
    "ReportCard",
    "RoleSpace",
    "Spec",
    "SpectralDetector",
    "SteerableOrDecodable",
    "SteeredFeatures",
    "SteeredText",
    "SteeredUnits",
    "Steering",
    "SteeringVector",
    "Strength",
    "SubspaceMaps",
    "Sweep",
    "TokensRead",
    "UnitMaps",
    "WordOdds",
    "WordOddsShift",
    "YaPO",
    "ablated",
    "ask_roles",
    "axes",
    "bake",
    "control",
    "features",
    "fluency",
    "formats",
    "guards",
    "kl_costs",
    "manifolds",
    "preference",
    "read_contrast",
    "reft",
    "rules",
    "tasks",
]
