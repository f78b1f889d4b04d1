;; world: validator
;; Sends a GET to the URL that the client writes, and refuses with the body of the response and 400
;; and a tenth of its status; or with what the error says and 450 and the error's number. The chat's
;; model says how: l sends until there is an error, s gives it 30 ms, h sets the header `host`, b posts
;; 300 KiB; p accepts and sends nothing.
(import "gapura:plugin/http@0.1.0" "send"
  (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
;; A header @1024: its name and its value.
(data (i32.const 1024) "\40\04\00\00\04\00\00\00\44\04\00\00\01\00\00\00")
(data (i32.const 1088) "hostx")
(func $refuse (param $status i32) (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (local.get $status))
  (i32.store (i32.const 28) (local.get $from))
  (i32.store (i32.const 32) (local.get $len))
  (i32.const 0))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (local $letter i32) (local $url i32) (local $error i32)
  (local.set $letter (i32.load8_u (i32.load offset=16 (local.get $chat))))
  (if (i32.eq (local.get $letter) (i32.const 0x70)) (then (return (i32.const 0))))
  ;; The first part of the first message.
  (local.set $url (i32.load offset=4 (i32.load offset=40 (local.get $chat))))
  (if (i32.eq (local.get $letter) (i32.const 0x62)) (then (drop (memory.grow (i32.const 8)))))
  (loop $again
    (call $send
      (select (i32.const 2) (i32.const 0) (i32.eq (local.get $letter) (i32.const 0x62)))
      (i32.load (local.get $url)) (i32.load offset=4 (local.get $url))
      (i32.const 1024) (i32.eq (local.get $letter) (i32.const 0x68))
      (i32.const 131072)
      (select (i32.const 307200) (i32.const 0) (i32.eq (local.get $letter) (i32.const 0x62)))
      (i32.eq (local.get $letter) (i32.const 0x73)) (i32.const 30)
      (i32.const 512))
    (if (i32.load8_u (i32.const 512)) (then
      (local.set $error (i32.load8_u (i32.const 520)))
      ;; Neither `timeout` nor `too-large` has a text.
      (return (call $refuse
        (i32.add (i32.const 450) (local.get $error))
        (i32.load (i32.const 528))
        (select (i32.const 0) (i32.load (i32.const 532))
          (i32.or (i32.eq (local.get $error) (i32.const 3))
            (i32.eq (local.get $error) (i32.const 4))))))))
    (br_if $again (i32.eq (local.get $letter) (i32.const 0x6c))))
  (call $refuse
    (i32.add (i32.const 400) (i32.div_u (i32.load16_u (i32.const 520)) (i32.const 10)))
    (i32.load (i32.const 532)) (i32.load (i32.const 536))))
