// Texts of the daemon as sentences. Pure.

/** What an error says and what to do about it, as sentences. */
export function wordsOf({ message, remedy }) {
  return [message, remedy].filter(Boolean).map(sentence).join(" ");
}

/** A text as a sentence. */
export function sentence(text) {
  return text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
