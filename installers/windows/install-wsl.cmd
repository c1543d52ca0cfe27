@echo off
rem What is needed once: WSL2 with Debian (asks for an administrator, and for a restart), then peerllm inside of it.
setlocal
if "%PEERLLM_WSL%"=="" set PEERLLM_WSL=Debian
echo 1. Windows installs WSL2 and %PEERLLM_WSL%: wsl --install -d %PEERLLM_WSL%
echo    It may ask for an administrator and for a restart; then run this file again.
where wsl.exe >nul 2>nul
if errorlevel 1 goto old
wsl.exe -d %PEERLLM_WSL% -- true >nul 2>nul
if errorlevel 1 wsl.exe --install -d %PEERLLM_WSL%
wsl.exe -d %PEERLLM_WSL% -- true >nul 2>nul
if errorlevel 1 goto again
echo 2. peerllm inside of it. It asks for the password that you chose for %PEERLLM_WSL%.
rem wsl.exe starts in this folder, where the wheel is
cd /d "%~dp0"
wsl.exe -d %PEERLLM_WSL% -- sudo apt-get update
wsl.exe -d %PEERLLM_WSL% -- sudo apt-get install -y pipx
if errorlevel 1 goto failed
wsl.exe -d %PEERLLM_WSL% -- pipx install --force "./@WHEEL@[chat]"
if errorlevel 1 goto failed
wsl.exe -d %PEERLLM_WSL% -- sudo ln -sf ~/.local/bin/peerllm /usr/local/bin/peerllm
if errorlevel 1 goto failed
wsl.exe -d %PEERLLM_WSL% -- peerllm setup
if errorlevel 1 goto failed
echo Done. Open a new terminal: peerllm up
pause
exit /b 0
:old
echo This Windows has no wsl.exe: Windows 10 from version 2004 on, or Windows 11, is needed. 1>&2
pause
exit /b 1
:again
echo Not there yet: restart Windows if it asked for that, then run this file again. 1>&2
pause
exit /b 1
:failed
echo That did not work; the lines above say why. 1>&2
pause
exit /b 1
