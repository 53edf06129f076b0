"""`slm completion SHELL`: the few lines with which a shell asks slm what could stand next.

Knows: how bash, zsh, fish and PowerShell ask, and how they take an answer.
Refuses to know: what the answers are (completion.py). The scripts hold no names and no options, so that they stay
right when slm is updated.
"""

from slmchat.errors import ExitCode, usage_error
from slmchat.terminal.console import Console

# COMP_WORDBREAKS: bash takes names of models apart at : and @, and wants only what stands behind the last of them.
_BASH = r"""# bash completion of slm. For every new shell:
#   mkdir -p ~/.local/share/bash-completion/completions
#   slm completion bash > ~/.local/share/bash-completion/completions/slm
# (without the bash-completion package: eval "$(slm completion bash)" in ~/.bashrc)
_slm() {
    local line=${COMP_LINE:0:COMP_POINT} kind value about current breaks prefix=
    current=${line##*[[:space:]]}
    breaks=${COMP_WORDBREAKS//[^:=@]/}
    if [[ -n $breaks ]]; then prefix=${current%"${current##*[$breaks]}"}; fi
    COMPREPLY=()
    while IFS=$'\t' read -r value about; do
        if [[ -z $kind ]]; then kind=$value; else COMPREPLY+=("${value#"$prefix"}"); fi
    done < <("${1/#\~/$HOME}" __complete --line "$line" 2>/dev/null)
}
complete -o bashdefault -o default -F _slm slm
"""

_ZSH = r"""#compdef slm
# zsh completion of slm. For every new shell, in a directory of your $fpath:
#   slm completion zsh > "${fpath[1]}/_slm"
# (or, behind compinit in ~/.zshrc: eval "$(slm completion zsh)")
_slm() {
    local -a answer described
    local line
    answer=("${(@f)$(${words[1]} __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ $answer[1] == files ]]; then
        _files
        return
    fi
    for line in "${(@)answer[2,-1]}"; do
        described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( $#described )); then
        _describe -t slm slm described
    else
        _files
    fi
}
if [[ $funcstack[1] == _slm ]]; then
    _slm "$@"
else
    compdef _slm slm
fi
"""

_FISH = r"""# fish completion of slm. For every new shell:
#   slm completion fish > ~/.config/fish/completions/slm.fish
function __slm_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    set -l answer ($program __complete -- $words "$current" 2>/dev/null)
    set -l kind $answer[1]
    set -e answer[1]
    if test "$kind" = files
        __fish_complete_path "$current"
    else if test (count $answer) -gt 0
        printf '%s\n' $answer
    end
end
complete -c slm -f -a '(__slm_complete)'
"""

_POWERSHELL = r"""# PowerShell completion of slm. For every new shell:
#   slm completion powershell >> $PROFILE
Register-ArgumentCompleter -Native -CommandName slm -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $line = $commandAst.Extent.Text
    $cursor = $cursorPosition - $commandAst.Extent.StartOffset
    if ($cursor -gt $line.Length) { $line = "$line " } else { $line = $line.Substring(0, $cursor) }
    & $commandAst.CommandElements[0].Value __complete --line $line 2>$null | Select-Object -Skip 1 | ForEach-Object {
        $value, $about = $_ -split "`t", 2
        if (-not $about) { $about = $value }
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $about)
    }
}
"""

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH, "powershell": _POWERSHELL}


def completion(shell: str, console: Console) -> ExitCode:
    """Print the script of a shell. Raises `SlmError` (USAGE) for one that slm does not know."""
    name = "powershell" if shell == "pwsh" else shell
    if name not in SCRIPTS:
        raise usage_error(f"there is no completion for '{shell}'.", f"one of {', '.join(SCRIPTS)}")
    console.write(SCRIPTS[name])
    return ExitCode.DONE
