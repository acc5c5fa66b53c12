//! The smallest program of the kernel's target: whatever links it can link ours. It needs no
//! `core`, so that trying a compiler and a linker together takes milliseconds.

#![feature(lang_items, no_core)]
#![allow(internal_features)]
#![no_std]
#![no_core]

#[lang = "pointee_sized"]
pub trait PointeeSized {}
#[lang = "meta_sized"]
pub trait MetaSized: PointeeSized {}
#[lang = "sized"]
pub trait Sized: MetaSized {}
#[lang = "copy"]
pub trait Copy {}
impl Copy for u32 {}

#[unsafe(no_mangle)]
#[unsafe(link_section = "xdp")]
pub extern "C" fn probe() -> u32 {
    2
}
