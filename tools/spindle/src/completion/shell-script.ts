/** The scripts that teach shells to complete the program's words: each asks the program itself what fits. */
export const SHELLS = ["bash", "fish", "zsh"] as const;

export type Shell = (typeof SHELLS)[number];

/** @param program the name that the program goes by */
export function shellScript(shell: Shell, program: string): string {
  return SCRIPTS[shell](program, `_${program.replaceAll("-", "_")}`);
}

const SCRIPTS: Readonly<Record<Shell, (program: string, name: string) => string>> = {
  // Bash cuts words at "=" and ":": they are put together again, and what stands before the cut is taken off the answers.
  bash: (program, name) => `${name}() {
  local words=() whole= part i before=\${COMP_LINE:0:COMP_POINT} answer
  read -ra words <<< "$before"
  [[ $before == *[[:space:]] ]] && words+=("")
  whole=\${words[\${#words[@]}-1]}
  part=\${COMP_WORDS[COMP_CWORD]}
  [[ $part == [=:] ]] && part=
  COMPREPLY=()
  while IFS=$'\\t' read -r answer _; do
    COMPREPLY+=("\${answer:\${#whole}-\${#part}}")
  done < <(${program} completion --candidates -- "\${words[@]:1}" 2>/dev/null)
}
complete -o bashdefault -o default -F ${name} ${program}
`,
  fish: (program, name) => `function _${name}
  set -l typed (commandline -ct)
  set -l words (commandline -opc)
  set -l answers (${program} completion --candidates -- $words[2..] "$typed" 2>/dev/null)
  if test (count $answers) -gt 0
    printf '%s\\n' $answers
  else
    set -l option (string match -r -- '^--[^=]*=' "$typed")
    for path in (__fish_complete_path (string replace -r -- '^--[^=]*=' '' "$typed"))
      printf '%s\\n' "$option$path"
    end
  end
end
complete -c ${program} -f -k -a '(_${name})'
`,
  zsh: (program, name) => `#compdef ${program}
${name}() {
  local -a answers
  answers=("\${(@f)$(${program} completion --candidates -- "\${(@)words[2,CURRENT]}" 2>/dev/null)}")
  answers=("\${(@)answers:#}")
  if (( \${#answers} )); then
    answers=("\${(@)answers//:/\\\\:}")
    answers=("\${(@)answers/$'\\t'/:}")
    _describe -V ${program} answers
  else
    compset -P '--*='
    _files
  fi
}
if [[ \${funcstack[1]} == ${name} ]]; then ${name} "$@"; else compdef ${name} ${program}; fi
`,
};
