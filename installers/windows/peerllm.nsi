; For one user, without administrator: launcher, wheel, Start menu, start at login, uninstaller. Built by build.sh.
Unicode true
!include "MUI2.nsh"

Name "peerllm ${VERSION}"
OutFile "${OUT}"
Target amd64-unicode
RequestExecutionLevel user
InstallDir "$LOCALAPPDATA\Programs\peerllm"
InstallDirRegKey HKCU "Software\peerllm" "InstallDir"
SetCompressor /SOLID lzma

!define UNINSTALL "Software\Microsoft\Windows\CurrentVersion\Uninstall\peerllm"
!define RUN "Software\Microsoft\Windows\CurrentVersion\Run"
!define MUI_ICON "${BUILD}\peerllm.ico"
!define MUI_UNICON "${BUILD}\peerllm.ico"
!define MUI_WELCOMEPAGE_TEXT "peerllm runs inside WSL2, Windows' own Linux, because its peer-to-peer part is a Linux program.$\r$\n$\r$\nThis installs a launcher. Then $\"Set up WSL2$\" in the Start menu installs WSL2 with Debian, if it is not there yet, and peerllm inside of it. Windows may ask for an administrator and for a restart.$\r$\n$\r$\nNothing of this computer is lent before you say so."
!define MUI_FINISHPAGE_RUN "$INSTDIR\install-wsl.cmd"
!define MUI_FINISHPAGE_RUN_TEXT "Set up WSL2 and peerllm inside of it now"
!insertmacro MUI_PAGE_WELCOME
!insertmacro MUI_PAGE_LICENSE "${BUILD}\LICENSE.txt"
!insertmacro MUI_PAGE_COMPONENTS
!insertmacro MUI_PAGE_DIRECTORY
!insertmacro MUI_PAGE_INSTFILES
!insertmacro MUI_PAGE_FINISH
!insertmacro MUI_UNPAGE_CONFIRM
!insertmacro MUI_UNPAGE_INSTFILES
!insertmacro MUI_LANGUAGE "English"

Section "peerllm (required)" Required
    SectionIn RO
    SetOutPath "$INSTDIR"
    Delete "$INSTDIR\peerllm-*.whl"
    File "${BUILD}\peerllm.cmd"
    File "${BUILD}\install-wsl.cmd"
    File "${BUILD}\start-hidden.vbs"
    File "${BUILD}\peerllm.ico"
    File "${BUILD}\LICENSE.txt"
    File "${BUILD}\${WHEEL}"
    CreateDirectory "$SMPROGRAMS\peerllm"
    CreateShortcut "$SMPROGRAMS\peerllm\Set up WSL2.lnk" "$INSTDIR\install-wsl.cmd" "" "$INSTDIR\peerllm.ico"
    CreateShortcut "$SMPROGRAMS\peerllm\Chat.lnk" "$INSTDIR\peerllm.cmd" "chat" "$INSTDIR\peerllm.ico"
    CreateShortcut "$SMPROGRAMS\peerllm\Uninstall.lnk" "$INSTDIR\uninstall.exe"
    WriteRegStr HKCU "Software\peerllm" "InstallDir" "$INSTDIR"
    WriteRegStr HKCU "${UNINSTALL}" "DisplayName" "peerllm"
    WriteRegStr HKCU "${UNINSTALL}" "DisplayVersion" "${VERSION}"
    WriteRegStr HKCU "${UNINSTALL}" "Publisher" "the peerllm authors"
    WriteRegStr HKCU "${UNINSTALL}" "DisplayIcon" "$INSTDIR\peerllm.ico"
    WriteRegStr HKCU "${UNINSTALL}" "InstallLocation" "$INSTDIR"
    WriteRegStr HKCU "${UNINSTALL}" "UninstallString" '"$INSTDIR\uninstall.exe"'
    WriteRegStr HKCU "${UNINSTALL}" "QuietUninstallString" '"$INSTDIR\uninstall.exe" /S'
    WriteRegDWORD HKCU "${UNINSTALL}" "NoModify" 1
    WriteRegDWORD HKCU "${UNINSTALL}" "NoRepair" 1
    WriteUninstaller "$INSTDIR\uninstall.exe"
SectionEnd

Section "Start at login" AtLogin
    WriteRegStr HKCU "${RUN}" "peerllm" 'wscript.exe "$INSTDIR\start-hidden.vbs"'
SectionEnd

Section "Uninstall"
    DeleteRegValue HKCU "${RUN}" "peerllm"
    DeleteRegKey HKCU "${UNINSTALL}"
    DeleteRegKey HKCU "Software\peerllm"
    RMDir /r "$SMPROGRAMS\peerllm"
    Delete "$INSTDIR\peerllm.cmd"
    Delete "$INSTDIR\install-wsl.cmd"
    Delete "$INSTDIR\start-hidden.vbs"
    Delete "$INSTDIR\peerllm.ico"
    Delete "$INSTDIR\LICENSE.txt"
    Delete "$INSTDIR\peerllm-*.whl"
    Delete "$INSTDIR\uninstall.exe"
    ; only if it is empty: the folder may have been chosen by its owner
    RMDir "$INSTDIR"
SectionEnd

!insertmacro MUI_FUNCTION_DESCRIPTION_BEGIN
    !insertmacro MUI_DESCRIPTION_TEXT ${Required} "The launcher, and peerllm as it will be installed inside WSL2."
    !insertmacro MUI_DESCRIPTION_TEXT ${AtLogin} "Starts the daemon when you log in. It lends nothing before you say so."
!insertmacro MUI_FUNCTION_DESCRIPTION_END
