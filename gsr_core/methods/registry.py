"""Methods by name, and from the settings that a user typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pkgutil import resolve_name
from typing import Any

from pydantic import ValidationError

from gsr_core.errors import SettingError
from gsr_core.methods.base import Method
from gsr_core.settings import check_known, suggestion, what_is_wrong

__all__ = ["METHODS", "make_method"]


class _Methods(Mapping[str, type[Method]]):
    """Methods by name, each imported when it is first looked at.

    Whoever lists runs or asks for one method need not wait for torch and all others.
    """

    def __init__(self, where: Mapping[str, str]) -> None:
        self._where = where
        self._known: dict[str, type[Method]] = {}

    def __getitem__(self, name: str) -> type[Method]:
        if name not in self._known:
            self._known[name] = resolve_name(self._where[name])
        return self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


METHODS: Mapping[str, type[Method]] = _Methods(
    {
        "gsr": "gsr_core.methods.gsr:GSR",
        "erm": "gsr_core.methods.erm:ERM",
        "llr": "gsr_core.methods.llr:LLR",
        "dfr": "gsr_core.methods.dfr:DFR",
        "pro2": "gsr_core.methods.pro2:Pro2",
        "d3m": "gsr_core.methods.d3m:D3M",
        "class_balanced": "gsr_core.methods.class_balanced:ClassBalanced",
        "class_scaling": "gsr_core.methods.class_scaling:ClassScaling",
        "drops": "gsr_core.methods.drops:DROPS",
        "rwg": "gsr_core.methods.rwg:RWG",
        "subg": "gsr_core.methods.subg:SUBG",
        "group_dro": "gsr_core.methods.group_dro:GroupDRO",
        "optweights": "gsr_core.methods.optweights:OptWeights",
        "pde": "gsr_core.methods.pde:PDE",
        "projection": "gsr_core.methods.projection:Projection",
        "afr": "gsr_core.methods.afr:AFR",
        "jtt": "gsr_core.methods.jtt:JTT",
        "rad": "gsr_core.methods.rad:RAD",
        "evals": "gsr_core.methods.evals:EVaLS",
        "lff": "gsr_core.methods.lff:LfF",
        "self": "gsr_core.methods.self_disagreement:SelfDisagreement",
        "cvar_doro": "gsr_core.methods.cvar_doro:CVaRDORO",
        "pgd": "gsr_core.methods.pgd:PGD",
        "gsr_hf": "gsr_core.methods.gsr_variants:GSRHF",
        "gsr_cg": "gsr_core.methods.gsr_variants:GSRCG",
        "gsr_lissa": "gsr_core.methods.gsr_variants:GSRLiSSA",
        "maple": "gsr_core.methods.maple:MAPLE",
        "l2r": "gsr_core.methods.l2r:L2R",
        "mwn": "gsr_core.methods.mwn:MWN",
        "auto_d3m": "gsr_core.methods.d3m:AutoD3M",
        "lrw_random": "gsr_core.methods.lrw:LRWRandom",
        "lrw_easy": "gsr_core.methods.lrw:LRWEasy",
        "lrw_hard": "gsr_core.methods.lrw:LRWHard",
        "lrwopt": "gsr_core.methods.lrwopt:LRWOpt",
        "text_projection": "gsr_core.methods.text_projection:TextProjection",
        "spare": "gsr_core.methods.inferred:Spare",
        "eiil": "gsr_core.methods.inferred:EIIL",
        "xrm": "gsr_core.methods.inferred:XRM",
        "george": "gsr_core.methods.inferred:George",
        "grasp": "gsr_core.methods.inferred:GraSP",
        "feasp": "gsr_core.methods.inferred:FeaSP",
        "ssa": "gsr_core.methods.inferred:SSA",
        "network_erm": "gsr_core.methods.network.balanced:NetworkERM",
        "network_class_balanced": "gsr_core.methods.network.balanced:NetworkClassBalanced",
        "network_rwg": "gsr_core.methods.network.balanced:NetworkRWG",
        "network_subg": "gsr_core.methods.network.balanced:NetworkSUBG",
        "network_group_dro": "gsr_core.methods.network.group_dro:NetworkGroupDRO",
        "network_jtt": "gsr_core.methods.network.jtt:NetworkJTT",
        "network_lff": "gsr_core.methods.network.lff:NetworkLfF",
        "gsr_f_eh": "gsr_core.methods.network.gsr:GSRFEH",
        "gsr_f_gn": "gsr_core.methods.network.gsr:GSRFGN",
        "gsr_f_ah": "gsr_core.methods.network.gsr:GSRFAH",
        "gsr_f_hf": "gsr_core.methods.network.gsr:GSRFHF",
        "network_s2l": "gsr_core.methods.network.s2l:NetworkS2L",
        "network_epic": "gsr_core.methods.network.epic:NetworkEPIC",
        "network_crest": "gsr_core.methods.network.crest:NetworkCREST",
        "network_spare": "gsr_core.methods.network.spare:NetworkSpare",
        "network_pgd": "gsr_core.methods.network.pgd:NetworkPGD",
        "network_pde": "gsr_core.methods.network.pde:NetworkPDE",
        "network_eiil": "gsr_core.methods.network.eiil:NetworkEIIL",
        "network_george": "gsr_core.methods.network.george:NetworkGeorge",
        "network_cnc": "gsr_core.methods.network.cnc:NetworkCnC",
        "network_lrw_random": "gsr_core.methods.network.lrw:NetworkLRWRandom",
        "network_lrw_easy": "gsr_core.methods.network.lrw:NetworkLRWEasy",
        "network_lrw_hard": "gsr_core.methods.network.lrw:NetworkLRWHard",
        "network_lrwopt": "gsr_core.methods.network.lrwopt:NetworkLRWOpt",
    }
)
"""Every method by its name."""


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
