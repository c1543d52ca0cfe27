' Starts the daemon at login without a window; without WSL2 nothing happens.
here = CreateObject("Scripting.FileSystemObject").GetParentFolderName(WScript.ScriptFullName)
CreateObject("WScript.Shell").Run """" & here & "\peerllm.cmd"" up --no-wait", 0, False
