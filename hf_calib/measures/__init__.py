"""Measures of calibration: bins, errors, scores and their intervals. NumPy in, numbers out."""

from .binning import BinStatistics, bin_edges
from .catalog import CATALOG, MeasureInfo, shown_in
from .classwise import adaptive_calibration_error, classwise_calibration_error
from .consistency import CalibrationTest, calibration_test
from .conventions import Convention, confidence_at_k, ece_conventions, hle_calibration_error
from .dece import differentiable_calibration_error
from .distributions import (
    brier_from_gold,
    expected_score_error,
    kl_from_gold,
    labels_with_ties,
    total_variation,
)
from .errors import expected_calibration_error, maximum_calibration_error, signed_gap
from .estimates import Measure
from .intervals import calibration_error_interval
from .kernels import LocalCalibrationError, kernel_calibration_error, local_calibration_error
from .ranking import (
    RiskCoverageCurve,
    accuracy_at_coverage,
    aurc,
    auroc,
    coverage_at_accuracy,
    equal_mass_calibration_error,
    equal_mass_edges,
    excess_aurc,
    kolmogorov_smirnov_calibration_error,
    risk_coverage_curve,
)
from .report import CalibrationReport, GroupReport
from .scores import (
    BrierDecomposition,
    accuracy,
    brier_decomposition,
    brier_score,
    mean_confidence,
    negative_log_likelihood,
    option_mass,
    target_calibration_error,
)
from .smooth import SmoothECE, smooth_ece
from .streams import CalibrationStream, StreamedMeasure
from .thresholds import AccuracyThreshold, accuracy_threshold
from .verdict import Finding

__all__ = [
    "CATALOG",
    "AccuracyThreshold",
    "BinStatistics",
    "BrierDecomposition",
    "CalibrationReport",
    "CalibrationStream",
    "CalibrationTest",
    "Convention",
    "Finding",
    "GroupReport",
    "LocalCalibrationError",
    "Measure",
    "MeasureInfo",
    "RiskCoverageCurve",
    "SmoothECE",
    "StreamedMeasure",
    "accuracy",
    "accuracy_at_coverage",
    "accuracy_threshold",
    "adaptive_calibration_error",
    "aurc",
    "auroc",
    "bin_edges",
    "brier_decomposition",
    "brier_from_gold",
    "brier_score",
    "calibration_error_interval",
    "calibration_test",
    "classwise_calibration_error",
    "confidence_at_k",
    "coverage_at_accuracy",
    "differentiable_calibration_error",
    "ece_conventions",
    "equal_mass_calibration_error",
    "equal_mass_edges",
    "excess_aurc",
    "expected_calibration_error",
    "expected_score_error",
    "hle_calibration_error",
    "kernel_calibration_error",
    "kl_from_gold",
    "kolmogorov_smirnov_calibration_error",
    "labels_with_ties",
    "local_calibration_error",
    "maximum_calibration_error",
    "mean_confidence",
    "negative_log_likelihood",
    "option_mass",
    "risk_coverage_curve",
    "shown_in",
    "signed_gap",
    "smooth_ece",
    "target_calibration_error",
    "total_variation",
]
