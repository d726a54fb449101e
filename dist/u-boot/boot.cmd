# Starts the slot that update-engine asks for, and counts the boots of one that is on trial; for boot.control = "u-boot".
# Needs of U-Boot: its hush shell, `test`, `source`, `saveenv`.
#
#   mkimage -T script -C none -n ota -d boot.cmd boot.scr
#
# To be set by the board, in U-Boot's environment: ota_boot_A and ota_boot_B, which load and start the kernel of a slot, such as
#
#   ota_boot_A=load mmc 0:2 ${kernel_addr_r} /boot/Image && setenv bootargs root=/dev/mmcblk0p2 && booti ${kernel_addr_r} - ${fdtcontroladdr}
#
# The environment must be saved where /etc/fw_env.config says, and better in two copies (redundant): a power cut while a single one
# is saved loses all of it.
#
# Where the slots are not called A and B ([boot.u-boot] names): ota_boot_NAME of each, and ota_names=NAME NAME, that of slot a first.
#
#   BOOT_ORDER=B A     slots that may be started, the preferred one first
#   BOOT_B_LEFT=3      boots left (hexadecimal); one that has none is passed over
#   ota_pending=B      the slot on trial: only its boots are counted
#   ota_loader=1       from here: U-Boot reads this environment, and can save it

# Before anything else is set, so that no default of below is saved with it.
if test "${ota_loader}" != "1"; then
  setenv ota_loader 1
  saveenv
fi

# Nothing was ever marked: a factory disk.
setenv ota_order "A B"
if test -n "${ota_names}"; then setenv ota_order "${ota_names}"; fi
if test -n "${BOOT_ORDER}"; then setenv ota_order "${BOOT_ORDER}"; fi

for ota_slot in ${ota_order}; do
  # The count of this slot, whatever it is called.
  setenv ota_get "setenv ota_left \${BOOT_${ota_slot}_LEFT}"
  run ota_get
  if test -z "${ota_left}"; then setenv ota_left 3; fi
  setenv ota_start yes
  if test "${ota_left}" = "0"; then setenv ota_start no; fi

  # A slot on trial is not started unless its try is spent and saved. update-engine gives it 3.
  if test "${ota_start}" = "yes" && test "${ota_slot}" = "${ota_pending}"; then
    setenv BOOT_${ota_slot}_LEFT 2
    if test "${ota_left}" = "2"; then setenv BOOT_${ota_slot}_LEFT 1; fi
    if test "${ota_left}" = "1"; then setenv BOOT_${ota_slot}_LEFT 0; fi
    setenv ota_start
    setenv ota_get
    setenv ota_left
    setenv ota_order
    if saveenv; then setenv ota_start yes; else setenv ota_start no; fi
  fi

  # Comes back only if the slot cannot be started.
  if test "${ota_start}" = "yes"; then
    echo "ota: starting slot ${ota_slot}"
    run ota_boot_${ota_slot}
    echo "ota: slot ${ota_slot} could not be started"
  fi
done

# No slot had boots left, or none could be started: the preferred one all the same.
setenv ota_order "A B"
if test -n "${ota_names}"; then setenv ota_order "${ota_names}"; fi
if test -n "${BOOT_ORDER}"; then setenv ota_order "${BOOT_ORDER}"; fi
for ota_slot in ${ota_order}; do
  run ota_boot_${ota_slot}
done
reset
