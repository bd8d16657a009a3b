"""Methods by name, and from the settings that a user typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import ValidationError

from gsr_core.errors import SettingError
from gsr_core.methods.afr import AFR
from gsr_core.methods.base import Method
from gsr_core.methods.class_balanced import ClassBalanced
from gsr_core.methods.class_scaling import ClassScaling
from gsr_core.methods.cvar_doro import CVaRDORO
from gsr_core.methods.d3m import D3M, AutoD3M
from gsr_core.methods.dfr import DFR
from gsr_core.methods.drops import DROPS
from gsr_core.methods.erm import ERM
from gsr_core.methods.evals import EVaLS
from gsr_core.methods.group_dro import GroupDRO
from gsr_core.methods.gsr import GSR
from gsr_core.methods.gsr_variants import GSRCG, GSRHF, GSRLiSSA
from gsr_core.methods.inferred import EIIL, SSA, XRM, FeaSP, George, GraSP, Spare
from gsr_core.methods.jtt import JTT
from gsr_core.methods.l2r import L2R
from gsr_core.methods.lff import LfF
from gsr_core.methods.llr import LLR
from gsr_core.methods.lrw import LRWEasy, LRWHard, LRWRandom
from gsr_core.methods.lrwopt import LRWOpt
from gsr_core.methods.maple import MAPLE
from gsr_core.methods.mwn import MWN
from gsr_core.methods.network.balanced import (
    NetworkClassBalanced,
    NetworkERM,
    NetworkRWG,
    NetworkSUBG,
)
from gsr_core.methods.network.cnc import NetworkCnC
from gsr_core.methods.network.crest import NetworkCREST
from gsr_core.methods.network.eiil import NetworkEIIL
from gsr_core.methods.network.epic import NetworkEPIC
from gsr_core.methods.network.george import NetworkGeorge
from gsr_core.methods.network.group_dro import NetworkGroupDRO
from gsr_core.methods.network.gsr import GSRFAH, GSRFEH, GSRFGN, GSRFHF
from gsr_core.methods.network.jtt import NetworkJTT
from gsr_core.methods.network.lff import NetworkLfF
from gsr_core.methods.network.lrw import NetworkLRWEasy, NetworkLRWHard, NetworkLRWRandom
from gsr_core.methods.network.lrwopt import NetworkLRWOpt
from gsr_core.methods.network.pde import NetworkPDE
from gsr_core.methods.network.pgd import NetworkPGD
from gsr_core.methods.network.s2l import NetworkS2L
from gsr_core.methods.network.spare import NetworkSpare
from gsr_core.methods.optweights import OptWeights
from gsr_core.methods.pde import PDE
from gsr_core.methods.pgd import PGD
from gsr_core.methods.pro2 import Pro2
from gsr_core.methods.projection import Projection
from gsr_core.methods.rad import RAD
from gsr_core.methods.rwg import RWG
from gsr_core.methods.self_disagreement import SelfDisagreement
from gsr_core.methods.subg import SUBG
from gsr_core.methods.text_projection import TextProjection
from gsr_core.settings import check_known, suggestion, what_is_wrong

__all__ = ["METHODS", "make_method"]

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        GSR,
        ERM,
        LLR,
        DFR,
        Pro2,
        D3M,
        ClassBalanced,
        ClassScaling,
        DROPS,
        RWG,
        SUBG,
        GroupDRO,
        OptWeights,
        PDE,
        Projection,
        AFR,
        JTT,
        RAD,
        EVaLS,
        LfF,
        SelfDisagreement,
        CVaRDORO,
        PGD,
        GSRHF,
        GSRCG,
        GSRLiSSA,
        MAPLE,
        L2R,
        MWN,
        AutoD3M,
        LRWRandom,
        LRWEasy,
        LRWHard,
        LRWOpt,
        TextProjection,
        Spare,
        EIIL,
        XRM,
        George,
        GraSP,
        FeaSP,
        SSA,
        NetworkERM,
        NetworkClassBalanced,
        NetworkRWG,
        NetworkSUBG,
        NetworkGroupDRO,
        NetworkJTT,
        NetworkLfF,
        GSRFEH,
        GSRFGN,
        GSRFAH,
        GSRFHF,
        NetworkS2L,
        NetworkEPIC,
        NetworkCREST,
        NetworkSpare,
        NetworkPGD,
        NetworkPDE,
        NetworkEIIL,
        NetworkGeorge,
        NetworkCnC,
        NetworkLRWRandom,
        NetworkLRWEasy,
        NetworkLRWHard,
        NetworkLRWOpt,
    )
}


def make_method(name: str, values: Mapping[str, Any] | None = None) -> Method:
    """Return a method from its name and settings; text is read as the setting's type.

    Args:
        name: A key of `METHODS`.
        values: Settings that differ from the defaults.

    Raises:
        SettingError: If the method or a setting is unknown, or a value is not allowed.

    Example:
        >>> make_method("rwg", {"l2": "0.1"})
        RWG(seed=0, selection='worst_group', l2=0.1, standardise=True)
        >>> make_method("gsr", {"lrr": 0.1})
        Traceback (most recent call last):
        ...
        gsr_core.errors.SettingError: gsr has no setting 'lrr' (did you mean 'lr'?); its settings...
    """
    if name not in METHODS:
        raise SettingError(
            f"there is no method '{name}'{suggestion(name, METHODS)}; 'gsr methods' lists all"
        )
    method = METHODS[name]
    check_known(name, values or {}, [each.name for each in fields(method)])
    try:
        return method(**(values or {}))
    except ValidationError as error:
        raise SettingError(f"{name}: {what_is_wrong(error)}") from None
