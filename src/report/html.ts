const escapes: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

/** Text as it is written in HTML and SVG. */
export const escapeHtml = (text: string): string => text.replace(/[&<>"]/g, (c) => escapes[c]);
