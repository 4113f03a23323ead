export function startForm() {}
