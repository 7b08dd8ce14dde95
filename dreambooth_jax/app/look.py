# SPDX-License-Identifier: Apache-2.0
# Copyright The dreambooth_jax authors
"""How the page looks: Gradio's default, but every text has a contrast of 4.5 (WCAG AA), and no font is of elsewhere."""

from typing import Any

HEAD = """\
<script>
// Gradio labels boxes that have no role (an empty gallery), which screen readers then pass over.
const named = () => document.querySelectorAll("div[aria-label]:not([role])").forEach(box => box.role = "group");
new MutationObserver(named).observe(document.documentElement, {childList: true, subtree: true});
</script>
"""
"""What Gradio's own markup leaves out."""
CSS = ".grid-wrap, .labelled { padding-top: 2rem !important; }"
"""A label in a corner stands above what it tells of, not on it."""


def readable_theme() -> Any:
    """Gradio's default theme in darker oranges and greys."""
    import gradio

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme: Any = gradio.themes.Default(**fonts).set(
        body_text_color_subdued="*neutral_500",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        color_accent="*primary_700",
    )
    theme.color_accent_dark = "*primary_500"  # `set` has no argument for it
    return theme
