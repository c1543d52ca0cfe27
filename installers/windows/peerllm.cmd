@echo off
rem peerllm runs inside WSL2: its libp2p daemon is a Linux program. PEERLLM_WSL names another distribution than Debian.
setlocal
if "%PEERLLM_WSL%"=="" set PEERLLM_WSL=Debian
where wsl.exe >nul 2>nul
if errorlevel 1 goto missing
wsl.exe -d %PEERLLM_WSL% -- sh -c "command -v peerllm >/dev/null"
if errorlevel 1 goto missing
wsl.exe -d %PEERLLM_WSL% -- peerllm %*
exit /b %errorlevel%
:missing
echo peerllm: it needs WSL2 with %PEERLLM_WSL%, and peerllm inside of it. Run "%~dp0install-wsl.cmd" once. 1>&2
exit /b 1
